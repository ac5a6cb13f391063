//! What a node computes on: its GPUs, or its processor, by what was asked for and what is there.

use super::gpu::Source;
use super::gpu::choice::{Pick, choose};
use medley_protocol::hardware::Gpu;
use std::str::FromStr;

/// Most devices of a node.
const MAX_DEVICES: u32 = 64;

/// Arguments that say what a node computes on.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Devices of this node, of which it runs one rank each: `auto` takes every GPU, or the processor as one device where there is
    /// none; with a number, so many ranks compute on the processor
    #[arg(long, env = "MEDLEY_DEVICES", value_name = "auto|N", default_value = "auto")]
    devices: Devices,
    /// GPUs of this node, by their numbers as nvidia-smi lists them or by UUID, with commas between [default: all]
    #[arg(long, env = "MEDLEY_GPUS", value_name = "LIST", value_delimiter = ',')]
    gpus: Vec<Pick>,
    /// Ranks on each GPU
    #[arg(
        long,
        env = "MEDLEY_RANKS_PER_GPU",
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=16)
    )]
    ranks_per_gpu: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Devices {
    Auto,
    Processor(u32),
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(number @ 1..=MAX_DEVICES) => Ok(Self::Processor(number)),
            _ => Err(format!("use auto, or a number from 1 to {MAX_DEVICES}")),
        }
    }
}

/// What surrounds an agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// `MEDLEY_DEVICE`: the one device that ranks are to be on.
    pub(super) device: Option<&'a str>,
    /// `CUDA_VISIBLE_DEVICES`.
    pub(super) visible: Option<&'a str>,
    /// The numerics of a GPU, by its UUID, or why this program cannot compute there.
    pub(super) numerics: fn(&str) -> Result<String, String>,
}

/// What a node computes on.
pub(super) struct Equipment {
    /// Ranks it runs at once.
    pub(super) devices: u32,
    /// Its GPUs; none if ranks compute on the processor.
    pub(super) gpus: Vec<Gpu>,
    /// What the bits of the GPUs' results depend on.
    pub(super) numerics: Option<String>,
    /// What reads them.
    pub(super) source: Option<Box<dyn Source>>,
}

impl Equipment {
    fn processor(devices: u32) -> Self {
        Self {
            devices,
            gpus: Vec::new(),
            numerics: None,
            source: None,
        }
    }

    /// Finds what `args` ask for. `open` gives the source of GPUs, or why there is none.
    ///
    /// # Errors
    /// What was asked for and is not there, and what to do.
    pub(super) fn find(
        args: &Args,
        around: Surroundings,
        open: impl FnOnce() -> Result<Box<dyn Source>, String>,
    ) -> Result<Self, String> {
        let only = match (around.device, args.devices) {
            (Some("cpu"), Devices::Auto) => return Ok(Self::processor(1)),
            (None | Some("cpu"), Devices::Processor(devices)) if args.gpus.is_empty() => {
                return Ok(Self::processor(devices));
            }
            (None, Devices::Auto) => None,
            (Some(name), _) if args.gpus.is_empty() => Some(number_of(name)?),
            _ => return Err("--gpus contradicts --devices N and MEDLEY_DEVICE: leave the others out".into()),
        };
        let mut source = None;
        let found = open().and_then(|mut opened| {
            let found = opened.find();
            source = Some(opened);
            found
        });
        let is_asked = only.is_some() || !args.gpus.is_empty();
        let found = match found {
            Ok(found) => found,
            Err(reason) => return without(0, is_asked, &reason),
        };
        let fails = |gpu: &Gpu| (around.numerics)(&gpu.uuid).err();
        if let Some(reasons) = found.iter().map(fails).collect::<Option<Vec<_>>>()
            && let Some(reason) = reasons.first()
        {
            return without(found.len(), is_asked, reason);
        }
        let mut gpus = choose(&found, around.visible, &args.gpus)?;
        if let Some(number) = only {
            gpus = gpus.get(number).cloned().into_iter().collect();
            if gpus.is_empty() {
                return Err(format!(
                    "MEDLEY_DEVICE asks for GPU {number}, which is not to be used here"
                ));
            }
        }
        let Some(first) = gpus.first() else {
            return Ok(Self::processor(1));
        };
        // A node's GPUs are of one model.
        let numerics = match (around.numerics)(&first.uuid) {
            Ok(numerics) => Some(numerics),
            Err(reason) => return without(gpus.len(), is_asked, &reason),
        };
        let ranks = match args.devices {
            Devices::Processor(ranks) => ranks,
            Devices::Auto => args.ranks_per_gpu,
        };
        let devices = gpus.len() as u32 * ranks;
        if devices > MAX_DEVICES {
            return Err(format!(
                "{} GPUs with {ranks} ranks each are {devices} devices, and a node has at most {MAX_DEVICES}: lower \
                 --ranks-per-gpu, or pick some with --gpus",
                gpus.len()
            ));
        }
        Ok(Self {
            devices,
            gpus,
            numerics,
            source,
        })
    }
}

/// The processor in place of so many GPUs that cannot be used, unless somebody insists on them.
fn without(gpus: usize, is_asked: bool, reason: &str) -> Result<Equipment, String> {
    if is_asked {
        return Err(format!("GPUs are asked for, but {reason}"));
    }
    if gpus > 0 {
        tracing::warn!("ranks compute on the processor, although this machine has {gpus} GPUs: {reason}");
    } else {
        tracing::info!("ranks compute on the processor; as to GPUs, {reason}");
    }
    Ok(Equipment::processor(1))
}

/// The number of the GPU that a `MEDLEY_DEVICE` names. What is computed in there is the job's affair.
fn number_of(name: &str) -> Result<usize, String> {
    let number = name
        .strip_prefix("cuda:")
        .map(|rest| rest.strip_suffix(":bf16").unwrap_or(rest));
    let number = number.and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("MEDLEY_DEVICE is {name:?}: write cpu, or cuda:N for the GPU with number N"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// A machine with so many GPUs.
    struct Machine(usize);

    impl Source for Machine {
        fn find(&mut self) -> Result<Vec<Gpu>, String> {
            let gpu = |number| Gpu {
                uuid: format!("GPU-{number}"),
                name: "H200".into(),
                ..Gpu::default()
            };
            Ok((0..self.0).map(gpu).collect())
        }

        fn read(&mut self, _: &mut [Gpu]) {}
    }

    const CUDA: Surroundings = Surroundings {
        device: None,
        visible: None,
        numerics: |uuid| Ok(format!("numerics of {uuid}")),
    };

    fn find(line: &[&str], around: Surroundings, machine: Option<usize>) -> Result<(u32, Vec<String>), String> {
        let line = ["agent"].into_iter().chain(line.iter().copied());
        let args = Cli::try_parse_from(line).map_err(|error| error.to_string())?.args;
        let open = || match machine {
            Some(gpus) => Ok(Box::new(Machine(gpus)) as Box<dyn Source>),
            None => Err("no driver is here".into()),
        };
        let found = Equipment::find(&args, around, open)?;
        assert_eq!(found.source.is_some(), !found.gpus.is_empty());
        let numerics = found.gpus.first().map(|gpu| format!("numerics of {}", gpu.uuid));
        assert_eq!(found.numerics, numerics);
        Ok((found.devices, found.gpus.into_iter().map(|gpu| gpu.uuid).collect()))
    }

    fn on(devices: u32, gpus: &[&str]) -> (u32, Vec<String>) {
        (devices, gpus.iter().map(|gpu| (*gpu).to_owned()).collect())
    }

    #[test]
    fn every_gpu_is_a_device_and_the_processor_is_one_where_there_is_none() {
        assert_eq!(find(&[], CUDA, Some(2)).unwrap(), on(2, &["GPU-0", "GPU-1"]));
        assert_eq!(find(&["--devices", "auto"], CUDA, Some(0)).unwrap(), on(1, &[]));
        assert_eq!(find(&[], CUDA, None).unwrap(), on(1, &[]));
        let hidden = Surroundings {
            visible: Some(""),
            ..CUDA
        };
        assert_eq!(find(&[], hidden, Some(2)).unwrap(), on(1, &[]));
    }

    #[test]
    fn a_number_of_devices_means_the_processor() {
        assert_eq!(find(&["--devices", "4"], CUDA, Some(2)).unwrap(), on(4, &[]));
        let error = find(&["--devices", "4", "--gpus", "0"], CUDA, Some(2)).unwrap_err();
        assert!(error.contains("--gpus contradicts --devices"), "{error}");
        for wrong in ["0", "65", "all"] {
            let error = find(&["--devices", wrong], CUDA, None).unwrap_err();
            assert!(error.contains("--devices") && error.contains("from 1 to 64"), "{error}");
        }
    }

    #[test]
    fn a_gpu_has_one_rank_unless_more_are_asked_for() {
        assert_eq!(
            find(&["--gpus", "2,GPU-0"], CUDA, Some(3)).unwrap(),
            on(2, &["GPU-2", "GPU-0"])
        );
        assert_eq!(
            find(&["--gpus", "1", "--ranks-per-gpu", "2"], CUDA, Some(3)).unwrap(),
            on(2, &["GPU-1"])
        );
        let error = find(&["--ranks-per-gpu", "16"], CUDA, Some(8)).unwrap_err();
        assert!(
            error.contains("128 devices") && error.contains("--ranks-per-gpu"),
            "{error}"
        );
    }

    #[test]
    fn gpus_that_are_asked_for_and_cannot_be_had_are_no_silent_processor() {
        let error = find(&["--gpus", "0"], CUDA, None).unwrap_err();
        assert!(error.contains("no driver is here"), "{error}");
        let without = Surroundings {
            numerics: |_| Err("cuBLAS is missing".into()),
            ..CUDA
        };
        assert_eq!(find(&[], without, Some(2)).unwrap(), on(1, &[]));
        let error = find(&["--gpus", "0"], without, Some(2)).unwrap_err();
        assert!(error.contains("cuBLAS is missing"), "{error}");
        let one_fails = Surroundings {
            numerics: |uuid| {
                if uuid == "GPU-0" {
                    Err("is too old".into())
                } else {
                    (CUDA.numerics)(uuid)
                }
            },
            ..CUDA
        };
        assert_eq!(find(&["--gpus", "1"], one_fails, Some(2)).unwrap(), on(1, &["GPU-1"]));
        assert!(
            find(&["--gpus", "0"], one_fails, Some(2))
                .unwrap_err()
                .contains("too old")
        );
        let error = find(&["--gpus", "0"], CUDA, Some(0)).unwrap_err();
        assert!(error.contains("no GPU 0"), "{error}");
    }

    #[test]
    fn the_variable_of_one_device_still_says_where_all_ranks_are() {
        let named = |device| Surroundings {
            device: Some(device),
            ..CUDA
        };
        assert_eq!(
            find(&["--devices", "3"], named("cuda:1:bf16"), Some(2)).unwrap(),
            on(3, &["GPU-1"])
        );
        assert_eq!(find(&[], named("cuda:0"), Some(2)).unwrap(), on(1, &["GPU-0"]));
        assert_eq!(find(&[], named("cpu"), Some(2)).unwrap(), on(1, &[]));
        assert_eq!(find(&["--devices", "2"], named("cpu"), Some(2)).unwrap(), on(2, &[]));
        for (device, gpus) in [("cuda:2", 2), ("cuda:0", 0), ("gpu", 2), ("cuda:0:fp8", 2)] {
            let error = find(&[], named(device), Some(gpus)).unwrap_err();
            assert!(error.contains("MEDLEY_DEVICE"), "{error}");
        }
    }
}
