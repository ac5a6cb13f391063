//! What ranks compute on, and what is said of it.

use super::*;
use medley_protocol::hardware::Gpu;
use medley_protocol::spec::Precision;

#[test]
fn ranks_on_gpus_compute_in_what_their_job_asks_for() {
    let devices = |gpus: Vec<Gpu>| {
        let hardware = Hardware {
            memory_bytes: Some(1),
            gpus,
        };
        let mut agent = Agent::registered(2).equipped_with(hardware);
        let mut rounded = assignment(8, 1, &[0], StageKind::Pretrain);
        rounded.spec.pretrain.precision = Some(Precision::Bf16);
        let outputs = agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain), rounded]));
        let device = |output: &Output| match output {
            Output::Start {
                order: ToRank::Start { device, .. },
                ..
            } => Some(device.clone()),
            _ => None,
        };
        outputs.iter().filter_map(device).collect::<Vec<String>>()
    };
    assert_eq!(devices(vec![Gpu::default(); 2]), ["cuda:0", "cuda:0:bf16"]);
    assert_eq!(devices(Vec::new()), ["cpu", "cpu"]);
}

#[test]
fn beats_say_what_the_ranks_compute_on_as_it_was_last_read() {
    let gpu = |celsius| Gpu {
        uuid: "GPU-1".into(),
        celsius,
        ..Gpu::default()
    };
    let hardware = |celsius| Hardware {
        memory_bytes: Some(5),
        gpus: vec![gpu(celsius)],
    };
    let mut agent = Agent::registered(1).equipped_with(hardware(None));
    agent.step(Input::Gpus(vec![gpu(Some(61))]));
    assert_eq!(agent.beat().hardware, hardware(Some(61)));
}
