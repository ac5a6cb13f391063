use super::*;
use serde_json::{Value, json};

const BOTH: Passes = Passes {
    contrast: true,
    generate: true,
};

fn spec(preset: &str, batch: u32, more: &Value) -> Spec {
    let mut document = json!({
        "name": "j", "kind": "bootstrap", "preset": preset, "data": {"root": "/d"}, "lanes": {"batch": batch},
        "model": {"queue": 57_600},
    });
    document["pretrain"] = more.clone();
    Spec::from_document(&document).unwrap()
}

/// The numbers of a preset, with texts of 12 tokens on average as the benches have them.
fn sizes(preset: &str, batch: u32) -> Sizes {
    let spec = spec(preset, batch, &json!({}));
    let mut sizes = Sizes::of(&spec, &spec.pretrain);
    sizes.tokens = 12.0;
    sizes
}

fn within(share: f64, found: f64, measured: f64) {
    let off = found / measured - 1.0;
    assert!(
        off.abs() < share,
        "{found:.2} against {measured}: {:+.1} %",
        100.0 * off
    );
}

#[test]
fn parameters_are_counted_as_in_the_released_models() {
    assert_eq!(sizes("vit-b", 4).student(), 252_441_919.0);
    assert_eq!(sizes("vit-b", 4).momentum(), 223_450_880.0 - 28_366_848.0);
    assert_eq!(sizes("vit-l", 4).student(), 474_729_023.0);
}

#[test]
fn activations_are_those_that_were_measured_on_a_gpu() {
    let gib = |preset: &str, batch: u32| {
        let alive = sizes(preset, batch).alive(BOTH, true);
        alive.bytes(Precision::Bf16) / (1024.0 * MIB)
    };
    within(0.03, gib("vit-b", 256), 26.7);
    within(0.03, gib("vit-l", 75), 18.1);
}

#[test]
fn activations_that_are_computed_again_are_those_that_were_measured() {
    let gib = |preset: &str, batch: u32, is_gpu: bool| {
        let mut sizes = sizes(preset, batch);
        sizes.recomputes = true;
        let precision = if is_gpu { Precision::Bf16 } else { Precision::Fp32 };
        sizes.alive(BOTH, is_gpu).bytes(precision) / (1024.0 * MIB)
    };
    within(0.03, gib("vit-l", 75, true), 2.30);
    // Measured to a hundredth.
    within(0.05, gib("vit-b", 4, false), 0.18);
    within(0.05, gib("vit-l", 2, false), 0.12);
}

#[test]
fn a_step_on_the_processor_takes_what_was_measured() {
    // A process that makes steps of one lane: it exchanges nothing, and writes no checkpoint.
    let sizes = sizes("vit-b", 4);
    let alive = sizes.alive(BOTH, false).bytes(Precision::Fp32);
    let taken = PROCESS_BYTES + sizes.state_bytes() + sizes.student() * EXACT + alive;
    within(0.03, taken / MIB, 5655.0);
}

#[test]
fn a_format_of_half_the_size_takes_little_more_than_half_the_activations() {
    let of = |precision: &str| {
        let spec = spec("vit-b", 90, &json!({"precision": precision}));
        Estimate::of(&spec, StageKind::Pretrain, 1).unwrap()
    };
    let (single, half) = (of("fp32"), of("bf16"));
    assert!(
        half.gpu_bytes < single.gpu_bytes * 6 / 10 + (4 << 30),
        "{half:?} {single:?}"
    );
    assert_eq!((half.host_bytes, half.gpu_host_bytes), (None, single.gpu_host_bytes));
    assert!(single.host_bytes > Some(single.gpu_host_bytes));
}

#[test]
fn a_gpu_has_state_snapshot_and_sums_and_its_machine_the_sums_that_travel() {
    let spec = spec("vit-b", 90, &json!({"precision": "bf16"}));
    let sizes = Sizes::of(&spec, &spec.pretrain);
    let (state, gradient) = (sizes.state_bytes(), sizes.student() * EXACT);
    let rounded = (sizes.student() + sizes.momentum()) * 2.0;
    let pixels = 3.0 * 90.0 * 3.0 * f64::from(spec.pretrain.image_size).powi(2) * EXACT;
    let beside = CUDA_BYTES + pixels + rounded + sizes.alive(BOTH, true).bytes(Precision::Bf16);
    let of = |lanes| Estimate::of(&spec, StageKind::Pretrain, lanes).unwrap();
    let (alone, first_of_many) = (of(spec.lanes.count), of(1));
    let levels = f64::from(spec.lanes.count.ilog2() + 1);
    let ranks = f64::from(spec.lanes.count);
    within(1e-6, alone.gpu_bytes as f64, beside + 2.0 * state + levels * gradient);
    within(
        1e-6,
        first_of_many.gpu_bytes as f64,
        beside + state * (1.0 + 1.0 / ranks) + 3.0 * gradient,
    );
    let saved = 3.0 * gradient - (1.0 - 1.0 / ranks) * state;
    within(
        1e-6,
        first_of_many.gpu_host_bytes as f64 - alone.gpu_host_bytes as f64,
        saved,
    );
}

#[test]
fn a_stage_that_recomputes_takes_what_it_would_have_taken_if_it_did() {
    let of = |recompute: bool| spec("vit-l", 75, &json!({"precision": "bf16", "recompute": recompute}));
    let (keeps, recomputes) = (of(false), of(true));
    let told = Estimate::recomputing(&keeps, StageKind::Pretrain, 1);
    assert_eq!(told, Estimate::of(&recomputes, StageKind::Pretrain, 1));
    let saved = Estimate::of(&keeps, StageKind::Pretrain, 1).unwrap().gpu_bytes - told.unwrap().gpu_bytes;
    assert!(saved > 10 << 30, "{saved}");
    assert_eq!(Estimate::recomputing(&recomputes, StageKind::Pretrain, 1), None);
    assert_eq!(Estimate::recomputing(&keeps, StageKind::Evaluate, 1), None);
}

#[test]
fn sizes_beyond_all_machines_are_counted_too() {
    let huge = json!({"width": 65_536, "depth": 65_536, "heads": 1, "mlp": 65_536, "patch": 1, "image_size": 1024});
    let document = json!({
        "name": "j", "kind": "pretrain", "preset": "vit-b", "data": {"root": "/d"}, "lanes": {"batch": 4096, "count": 8},
        "cluster": {"max_ranks": 8}, "model": {"vision": huge, "queue": 57_600}, "pretrain": {"image_size": 1024},
    });
    let spec = Spec::from_document(&document).unwrap();
    let estimate = Estimate::of(&spec, StageKind::Pretrain, 1).unwrap();
    assert_eq!(estimate.host_bytes, Some(u64::MAX));
}

#[test]
fn more_lanes_take_more_sums_and_stages_that_do_not_train_are_not_told() {
    let spec = spec("vit-b", 90, &json!({}));
    let of = |lanes| Estimate::of(&spec, StageKind::Pretrain, lanes).unwrap().gpu_host_bytes;
    assert!(of(1) < of(2) && of(2) < of(16), "{} {} {}", of(1), of(2), of(16));
    assert_eq!(Estimate::of(&spec, StageKind::Index, 1), None);
    let stages: Vec<(StageKind, u32)> = Estimate::of_job(&spec, 16)
        .into_iter()
        .map(|estimate| (estimate.stage, estimate.lanes))
        .collect();
    let kinds = [StageKind::Pretrain, StageKind::Captioner, StageKind::Filter];
    assert_eq!(stages, kinds.map(|kind| (kind, 2)));
}
