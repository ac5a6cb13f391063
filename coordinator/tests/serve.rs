//! The coordinator as its operators meet it: a process with a state directory, an address and signals.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_medley-coordinator");
/// The coordinator's own promise.
const END: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_mins(1);

/// A serving coordinator; killed when dropped.
struct Coordinator {
    child: Child,
    address: String,
}

impl Coordinator {
    fn start(state: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(state)
            .env_remove("DATABASE_URL")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect("a ready line");
        let address = address.to_owned();
        Self { child, address }
    }

    /// Status line and body of a GET.
    fn get(&self, path: &str, token: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Sends a signal and waits for the end; the answer is the exit code.
    fn end(mut self, signal: &str) -> Option<i32> {
        // The shell's own: the program of that name is not on every machine.
        let sent = Command::new("sh")
            .args(["-c", "kill \"$@\"", "kill", signal, &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        let deadline = Instant::now() + END;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still there after {END:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // Ended already if the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn token(state: &Path, arguments: &[&str]) -> String {
    let output = Command::new(PROGRAM)
        .args(["token", "--state-dir"])
        .arg(state)
        .args(arguments)
        .env_remove("DATABASE_URL")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn sigterm_ends_the_coordinator_and_its_database() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let coordinator = Coordinator::start(&state);
    let url = fs::read_to_string(state.join("coordinator.url")).unwrap();
    assert_eq!(url.trim(), format!("http://{}", coordinator.address));
    let admin = fs::read_to_string(state.join("tokens/admin")).unwrap();
    assert_eq!(coordinator.get("/readyz", "").0, "HTTP/1.1 200 OK");
    assert_eq!(
        coordinator.get("/api/v1/nodes", admin.trim()),
        ("HTTP/1.1 200 OK".into(), "[]".into())
    );
    assert_eq!(coordinator.get("/api/v1/nodes", "").0, "HTTP/1.1 401 Unauthorized");

    assert_eq!(coordinator.end("-TERM"), Some(0));
    assert!(!state.join("coordinator.url").exists());
    assert!(
        !state.join("postgres/data/postmaster.pid").exists(),
        "the database server did not end cleanly"
    );
}

#[test]
fn a_killed_coordinator_serves_again_with_what_it_knew() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let coordinator = Coordinator::start(&state);
    let made = token(&state, &["create", "--role", "viewer", "--name", "somebody"]);
    assert_eq!(coordinator.get("/api/v1/jobs", &made).0, "HTTP/1.1 200 OK");
    assert_eq!(coordinator.end("-KILL"), None);

    let coordinator = Coordinator::start(&state);
    assert_eq!(coordinator.get("/api/v1/jobs", &made).0, "HTTP/1.1 200 OK");
    assert_eq!(coordinator.end("-INT"), Some(0));
    // Without a running coordinator the command starts the database itself.
    assert!(token(&state, &["list"]).contains("somebody"));
}
