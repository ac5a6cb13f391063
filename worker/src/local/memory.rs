//! Whether a training is foreseen to fit this machine: said before it begins.

use crate::agent::gpu::{self, choice};
use crate::rank::memory;
use anyhow::bail;
use medley_protocol::estimate::Estimate;
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;

/// Memory that there is, for all ranks; none where it is not known.
#[derive(Debug, Clone, Copy)]
struct There {
    /// On a GPU, of that GPU.
    gpu_bytes: Option<u64>,
    machine_bytes: Option<u64>,
}

/// Says what ranks on this device are foreseen to take.
///
/// # Errors
/// If there is less, with what to change.
pub(super) fn check(spec: &Spec, stage: StageKind, ranks: u32, device: &str) -> anyhow::Result<()> {
    let lanes = spec.lanes.count.div_ceil(ranks.clamp(1, spec.lanes.count));
    let there = There {
        gpu_bytes: gpu_bytes(device),
        machine_bytes: memory::machine_bytes(),
    };
    let is_gpu = device != "cpu";
    let Some(estimate) = Estimate::of(spec, stage, lanes) else {
        return Ok(());
    };
    println!("{}", foreseen(&estimate, is_gpu));
    if let Some(lack) = lack(&estimate, ranks, is_gpu, there) {
        let recomputing = Estimate::recomputing(spec, stage, lanes);
        let helps = recomputing.is_some_and(|estimate| self::lack(&estimate, ranks, is_gpu, there).is_none());
        let recompute = if helps {
            format!("set {stage}.recompute to true, or ")
        } else {
            String::new()
        };
        let fewer = if ranks > 1 { ", or lower --ranks" } else { "" };
        bail!("{lack}; {recompute}lower lanes.batch (and raise lanes.count){fewer}");
    }
    Ok(())
}

/// What each rank takes of what, for people.
fn foreseen(estimate: &Estimate, is_gpu: bool) -> String {
    let takes: Vec<String> = takes(estimate, is_gpu)
        .map(|(of, bytes)| format!("{} of the {of}", size(bytes)))
        .collect();
    format!(
        "each rank is foreseen to take about {}, with at most {} lanes",
        takes.join(" and "),
        estimate.lanes
    )
}

/// What a rank takes of the GPU, if it is on one, and of the machine. In bf16 it cannot be on the processor, and will say so.
fn takes(estimate: &Estimate, is_gpu: bool) -> impl Iterator<Item = (&'static str, u64)> {
    let machine = if is_gpu {
        Some(estimate.gpu_host_bytes)
    } else {
        estimate.host_bytes
    };
    let gpu = is_gpu.then_some(("GPU", estimate.gpu_bytes));
    gpu.into_iter().chain(machine.map(|bytes| ("machine", bytes)))
}

/// What there is too little of.
fn lack(estimate: &Estimate, ranks: u32, is_gpu: bool, there: There) -> Option<String> {
    takes(estimate, is_gpu).find_map(|(of, bytes)| {
        let has = if of == "GPU" {
            there.gpu_bytes
        } else {
            there.machine_bytes
        }?;
        let needed = bytes.saturating_mul(ranks.into());
        let ranks = if ranks == 1 {
            "the rank".into()
        } else {
            format!("{ranks} ranks")
        };
        (needed > has).then(|| {
            format!(
                "{ranks} would need about {} of the {of}, which has {}",
                size(needed),
                size(has)
            )
        })
    })
}

/// Memory of the GPU of this name, `cuda:N` or `cuda:N:bf16`; none if the driver does not tell.
fn gpu_bytes(device: &str) -> Option<u64> {
    let number: usize = device.strip_prefix("cuda:")?.split(':').next()?.parse().ok()?;
    let found = gpu::source().ok()?.find().ok()?;
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let gpus = choice::choose(&found, visible.as_deref(), &[]).ok()?;
    gpus.get(number).map(|gpu| gpu.memory_bytes)
}

/// A size, for people.
fn size(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESTIMATE: Estimate = Estimate {
        stage: StageKind::Pretrain,
        lanes: 2,
        gpu_bytes: 10 << 30,
        gpu_host_bytes: 4 << 30,
        host_bytes: Some(12 << 30),
    };

    #[test]
    fn what_is_too_much_for_the_gpu_or_the_machine_is_told() {
        let lack = |ranks, is_gpu, gpu: Option<u64>, machine: Option<u64>| {
            let there = There {
                gpu_bytes: gpu.map(|gib| gib << 30),
                machine_bytes: machine.map(|gib| gib << 30),
            };
            lack(&ESTIMATE, ranks, is_gpu, there)
        };
        assert_eq!(lack(2, true, Some(20), Some(8)), None);
        assert_eq!(lack(9, true, None, None), None, "what is not known is not refused");
        let gpu = lack(2, true, Some(16), Some(8)).unwrap();
        assert_eq!(gpu, "2 ranks would need about 20.0 GiB of the GPU, which has 16.0 GiB");
        let machine = lack(1, true, Some(16), Some(3)).unwrap();
        assert_eq!(
            machine,
            "the rank would need about 4.0 GiB of the machine, which has 3.0 GiB"
        );
        assert!(lack(1, false, None, Some(11)).is_some() && lack(1, false, None, Some(12)).is_none());
        let foreseen = foreseen(&ESTIMATE, true);
        assert!(
            foreseen.contains("10.0 GiB of the GPU and 4.0 GiB of the machine, with at most 2 lanes"),
            "{foreseen}"
        );
    }

    #[test]
    fn a_training_that_no_machine_holds_is_refused_with_what_to_change() {
        let document = serde_json::json!({
            "name": "j", "kind": "pretrain", "preset": "vit-l", "data": {"root": "/d"},
            "lanes": {"count": 1, "batch": 4096}, "cluster": {"max_ranks": 1},
        });
        let spec = Spec::from_document(&document).unwrap();
        if memory::machine_bytes() < Some(800 << 30) {
            let error = check(&spec, StageKind::Pretrain, 1, "cpu").unwrap_err().to_string();
            assert!(
                error.contains("of the machine, which has") && error.contains("lower lanes.batch"),
                "{error}"
            );
        }
        assert!(check(&spec, StageKind::Evaluate, 1, "cpu").is_ok());
    }
}
