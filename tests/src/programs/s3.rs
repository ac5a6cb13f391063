//! A server on this machine that speaks S3, whose one bucket is a folder.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use tokio::runtime::{Builder as Threads, Runtime};

const KEY: &str = "of-tests";
const SECRET: &str = "known to the tests alone";

/// The server. It can be killed and started again; dropping it kills it.
#[derive(Debug)]
pub struct S3 {
    root: PathBuf,
    address: SocketAddr,
    running: Option<Runtime>,
}

impl S3 {
    /// Starts a server with an empty bucket on a free port.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(root: &Path) -> Self {
        fs::create_dir_all(root.join("bucket")).expect("a test may make folders");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a test may listen");
        Self {
            root: root.to_owned(),
            address: listener.local_addr().expect("a listener has an address"),
            running: Some(serve(root, listener)),
        }
    }

    /// The URL of a store in the bucket.
    pub fn url(&self) -> String {
        "s3://bucket/a/folder".into()
    }

    /// The folder that the objects of that store lie in.
    pub fn folder(&self) -> PathBuf {
        self.root.join("bucket/a/folder")
    }

    /// What a program has to be told that uses the store.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Kills it, with every connection.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown_background();
        }
    }

    /// Starts it again, where it was.
    ///
    /// # Panics
    /// When somebody else has taken its port.
    pub fn revive(&mut self) {
        let listener = TcpListener::bind(self.address).expect("its port is free");
        self.running = Some(serve(&self.root, listener));
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // A runtime must not be waited for where tests are tasks.
        self.kill();
    }
}

fn serve(root: &Path, listener: TcpListener) -> Runtime {
    let running = Threads::new_multi_thread().worker_threads(1).enable_all().build();
    let running = running.expect("a test may start threads");
    let mut service = S3ServiceBuilder::new(FileSystem::new(root).expect("the folder is our own"));
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    listener.set_nonblocking(true).expect("an open socket");
    running.spawn(accept(listener, service.build()));
    running
}

async fn accept(listener: TcpListener, service: S3Service) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("an open socket");
    while let Ok((socket, _)) = listener.accept().await {
        let service = service.clone();
        tokio::spawn(async move {
            let server = Builder::new(TokioExecutor::new());
            // Whoever asks may go at any time.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
