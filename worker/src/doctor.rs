//! `medley-worker doctor`: what this machine has of what ranks on GPUs need, and what is missing.

use crate::print;
use crate::rank::DEVICE;
use std::fmt::{self, Display, Formatter};

/// Beginnings of the names of variables that change what ranks on GPUs do.
const SETTINGS: [&str; 8] = [
    DEVICE,
    "CUDA_",
    "MEDLEY_GPUS",
    "MEDLEY_NCCL_OVERLAP",
    "MEDLEY_RANKS_PER_GPU",
    "LD_LIBRARY_PATH",
    "NCCL_",
    "NVIDIA_VISIBLE_DEVICES",
];

/// A thing that is there, or why it is not.
type Finding = Result<String, String>;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Each part of the way to a GPU, by its name.
    parts: Vec<(&'static str, Finding)>,
    settings: Vec<(String, String)>,
}

/// Looks and prints.
///
/// # Errors
/// When it cannot be printed.
pub fn run() -> anyhow::Result<()> {
    print::lines(Found::look())
}

impl Found {
    fn look() -> Self {
        let is_one = |name: &str| SETTINGS.iter().any(|setting| name.starts_with(setting));
        let mut settings: Vec<_> = std::env::vars().filter(|(name, _)| is_one(name)).collect();
        settings.sort();
        Self {
            parts: parts(),
            settings,
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn parts() -> Vec<(&'static str, Finding)> {
    let why = "this program was built without: build it with `make gpu-bin`";
    vec![("GPUs", Err(why.into()))]
}

#[cfg(feature = "cuda")]
fn parts() -> Vec<(&'static str, Finding)> {
    use crate::agent::gpu;
    use crate::collective::nccl::offer::Version;
    use medley_model::cuda::{self, CudaError, Listed};
    let why = |error: CudaError| error.to_string();
    let driver = cuda::driver_version().map(|(major, minor)| format!("for CUDA {major}.{minor}"));
    let device = |(number, listed): (usize, Listed)| {
        let gib = listed.total_bytes as f64 / f64::from(1 << 30);
        let (name, (major, minor), uuid) = (&listed.name, listed.compute, &listed.uuid);
        let told = format!("{number}: {name}, {gib:.0} GiB, compute capability {major}.{minor}, {uuid}");
        listed.check().map(|()| told).map_err(why)
    };
    let devices = cuda::devices().map_err(why).and_then(|devices| {
        if devices.is_empty() {
            return Err("the driver sees none, see CUDA_VISIBLE_DEVICES".into());
        }
        let devices: Result<Vec<String>, String> = devices.into_iter().enumerate().map(device).collect();
        devices.map(|devices| devices.join("; "))
    });
    let watched = gpu::source().and_then(|mut source| source.find());
    let watched = watched.map(|gpus| format!("watches {} GPUs", gpus.len()));
    let cublas = cuda::blas_version();
    let nccl = cuda::nccl::version().map(|(version, path)| format!("{}, {}", Version(version), path.display()));
    vec![
        ("driver", driver.map_err(why)),
        ("devices", devices),
        ("NVML", watched),
        ("cuBLASLt", cublas.map_err(why)),
        ("NCCL", nccl.map_err(why)),
    ]
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:10} medley-worker {}", "program", env!("CARGO_PKG_VERSION"))?;
        for (name, finding) in &self.parts {
            match finding {
                Ok(what) => writeln!(f, "{name:10} {what}")?,
                Err(why) => writeln!(f, "{name:10} missing: {why}")?,
            }
        }
        for (name, value) in &self.settings {
            writeln!(f, "{:10} {name}={value}", "setting")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_beside_what_is_there() {
        let found = Found {
            parts: vec![
                ("NCCL", Ok("2.30.7, /lib".into())),
                ("driver", Err("install it".into())),
            ],
            settings: vec![("NCCL_DEBUG".into(), "INFO".into())],
        };
        let lines: Vec<String> = found.to_string().lines().skip(1).map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "NCCL       2.30.7, /lib",
                "driver     missing: install it",
                "setting    NCCL_DEBUG=INFO"
            ]
        );
    }

    #[test]
    fn a_look_finds_or_misses_each_part_on_any_machine() {
        let names: Vec<_> = Found::look().parts.into_iter().map(|(name, _)| name).collect();
        let with_gpus = ["driver", "devices", "NVML", "cuBLASLt", "NCCL"];
        assert_eq!(
            names,
            if cfg!(feature = "cuda") {
                &with_gpus[..]
            } else {
                &["GPUs"]
            }
        );
    }
}
