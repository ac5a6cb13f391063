//! NVIDIA's management library, which comes with the driver and is loaded at run time.
//!
//! It knows nothing of `CUDA_VISIBLE_DEVICES`, and numbers GPUs by their place on the bus, as `nvidia-smi` does.

use super::Source;
use medley_protocol::hardware::Gpu;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::{Device, Nvml};

/// What the loader is asked for: the name without a number belongs to packages for developers.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Most critical errors that are taken in at once: a driver could tell them for ever.
const MAX_EVENTS: usize = 64;
/// Stands for a critical error whose number the driver does not know.
const UNKNOWN_XID: u64 = 999;

/// The library. Its handles live as long as the program.
pub(super) struct Library {
    nvml: &'static Nvml,
    /// Tells critical errors, once GPUs were found and where the driver does.
    events: Option<EventSet<'static>>,
}

impl Library {
    /// Loads the library.
    ///
    /// # Errors
    /// What is missing, for people.
    pub(super) fn open() -> Result<Self, String> {
        let opened = Nvml::builder().lib_path(LIBRARY.as_ref()).init();
        let nvml = opened.map_err(|error| match error {
            NvmlError::LibloadingError(_) => format!("{LIBRARY}, which comes with NVIDIA's driver, is not here"),
            error => format!("{LIBRARY} does not work: {error}"),
        })?;
        Ok(Self {
            nvml: Box::leak(Box::new(nvml)),
            events: None,
        })
    }

    /// Takes in critical errors since the last time.
    fn hear(&self, gpus: &mut [Gpu]) {
        let Some(events) = &self.events else { return };
        for _ in 0..MAX_EVENTS {
            // Nothing is waited for.
            let Ok(event) = events.wait(0) else { return };
            let Ok(uuid) = event.device.uuid() else { continue };
            if let Some(gpu) = gpus.iter_mut().find(|gpu| gpu.uuid == uuid) {
                gpu.last_xid = Some(match event.event_data {
                    Some(XidError::Value(xid)) => xid,
                    Some(XidError::Unknown) | None => UNKNOWN_XID,
                });
            }
        }
    }
}

impl Source for Library {
    fn find(&mut self) -> Result<Vec<Gpu>, String> {
        let count = self.nvml.device_count().map_err(|error| error.to_string())?;
        let (mut gpus, mut devices) = (Vec::new(), Vec::new());
        for number in 0..count {
            let device = self.nvml.device_by_index(number);
            let device = device.map_err(|error| format!("GPU {number}: {error}"))?;
            gpus.push(describe(&device).map_err(|error| format!("GPU {number}: {error}"))?);
            devices.push(device);
        }
        match watched(self.nvml, &devices) {
            Ok(events) => self.events = Some(events),
            Err(error) => tracing::info!("critical errors of GPUs (Xid) are not told: {error}"),
        }
        Ok(gpus)
    }

    fn read(&mut self, gpus: &mut [Gpu]) {
        for gpu in gpus.iter_mut() {
            let device = self.nvml.device_by_uuid(gpu.uuid.as_str()).ok();
            look(device.as_ref(), gpu);
        }
        self.hear(gpus);
    }
}

fn describe(device: &Device) -> Result<Gpu, NvmlError> {
    Ok(Gpu {
        uuid: device.uuid()?,
        name: device.name()?,
        memory_bytes: device.memory_info()?.total,
        ..Gpu::default()
    })
}

/// Reads a GPU; all is unknown of one that is gone.
fn look(device: Option<&Device>, gpu: &mut Gpu) {
    gpu.used_bytes = device.and_then(|device| Some(device.memory_info().ok()?.used));
    gpu.utilisation_percent = device.and_then(|device| Some(device.utilization_rates().ok()?.gpu.min(100)));
    gpu.celsius = device.and_then(|device| device.temperature(TemperatureSensor::Gpu).ok());
    let errors = |device: &Device| device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
    gpu.uncorrected_errors = device.and_then(|device| errors(device).ok());
}

/// A set of events that tells critical errors of all these GPUs.
fn watched(nvml: &'static Nvml, devices: &[Device<'static>]) -> Result<EventSet<'static>, NvmlError> {
    let mut events = nvml.create_event_set()?;
    for device in devices {
        let watched = device.register_events(EventTypes::CRITICAL_XID_ERROR, events);
        events = watched.map_err(|error| error.error)?;
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_library_is_told_its_name_and_one_with_it_counts_its_gpus() {
        match Library::open() {
            Err(reason) => assert!(reason.contains(LIBRARY), "{reason}"),
            Ok(mut library) => {
                let mut gpus = library.find().unwrap();
                library.read(&mut gpus);
                assert!(
                    gpus.iter()
                        .all(|gpu| gpu.uuid.starts_with("GPU-") && gpu.used_bytes.is_some())
                );
            }
        }
    }
}
