//! The GPUs of this node: found once, dealt to ranks, read for as long as the agent runs.
//!
//! A [`Source`] knows all GPUs of the machine; [`nvml`] is NVIDIA's. [`choice`] decides, without IO, which of them are the
//! node's, and [`claim`] keeps other agents from them. They are read by a thread of its own: a driver that hangs leaves readings old, and delays no beat.

pub mod choice;
pub mod claim;
mod nvml;

use super::core::Input;
use medley_protocol::hardware::Gpu;
use std::io;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// Time between two readings.
const PAUSE: Duration = Duration::from_secs(2);

/// Where GPUs are found and read.
pub trait Source: Send {
    /// All GPUs of the machine, in the order of their numbers.
    ///
    /// # Errors
    /// Why they cannot be told, for people.
    fn find(&mut self) -> Result<Vec<Gpu>, String>;

    /// Reads how GPUs that were found are now. What cannot be read is none.
    fn read(&mut self, gpus: &mut [Gpu]);
}

/// What the machine's driver tells.
///
/// # Errors
/// Why there is no source, for people.
pub fn source() -> Result<Box<dyn Source>, String> {
    Ok(Box::new(nvml::Library::open()?))
}

/// Reads GPUs again and again, until nobody listens any more.
///
/// # Errors
/// When no thread can be started.
pub(super) fn watch(mut source: Box<dyn Source>, mut gpus: Vec<Gpu>, told: mpsc::Sender<Input>) -> io::Result<()> {
    let watch = move || {
        loop {
            source.read(&mut gpus);
            if told.blocking_send(Input::Gpus(gpus.clone())).is_err() {
                return;
            }
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new().name("gpus".into()).spawn(watch).map(drop)
}
