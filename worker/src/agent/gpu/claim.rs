//! That two agents of a machine never take the same GPU.
//!
//! An agent holds a socket named after each of its GPUs. Such a name is nobody's file: the system gives it up with the process,
//! however that ends.

use medley_protocol::hardware::Gpu;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// GPUs that no other agent of this machine takes while this lives.
#[derive(Debug, Default)]
pub struct Claim {
    _sockets: Vec<UnixListener>,
}

impl Claim {
    /// Takes GPUs.
    ///
    /// # Errors
    /// Which of them is another agent's, and what to do.
    pub fn of(gpus: &[Gpu]) -> Result<Self, String> {
        let sockets: Result<_, String> = gpus.iter().map(|gpu| take(&gpu.uuid)).collect();
        Ok(Self { _sockets: sockets? })
    }
}

fn take(uuid: &str) -> Result<UnixListener, String> {
    let name = SocketAddr::from_abstract_name(format!("medley-{uuid}"));
    name.and_then(|name| UnixListener::bind_addr(&name))
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "{uuid} is another agent's of this machine: stop that one, or give each its own GPUs with --gpus; --ranks-per-gpu \
                 puts several ranks on one"
            ),
            _ => format!("cannot claim {uuid} for this agent: {error}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_one_agents_until_that_one_ends() {
        let gpus = |numbers: &[u32]| -> Vec<Gpu> {
            let gpu = |number: &u32| Gpu {
                uuid: format!("GPU-{}-{number}", std::process::id()),
                ..Gpu::default()
            };
            numbers.iter().map(gpu).collect()
        };
        let first = Claim::of(&gpus(&[0, 1])).unwrap();
        let _second = Claim::of(&gpus(&[2])).unwrap();
        let error = Claim::of(&gpus(&[3, 1])).unwrap_err();
        assert!(
            error.contains("-1 is another agent's") && error.contains("--gpus"),
            "{error}"
        );
        drop(first);
        Claim::of(&gpus(&[3, 1])).unwrap();
    }
}
