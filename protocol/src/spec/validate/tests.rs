use crate::spec::{Collective, OnLoss, Precision, Spec};
use serde_json::{Value, json};

fn problems(change: &Value) -> Vec<(String, String)> {
    let mut document = json!({"name": "j", "kind": "bootstrap", "preset": "tiny", "data": {"root": "/d"}});
    for (name, value) in change.as_object().into_iter().flatten() {
        document[name] = value.clone();
    }
    let problems = Spec::from_document(&document).unwrap_err();
    problems.0.into_iter().map(|p| (p.path, p.message)).collect()
}

#[test]
fn a_queue_shorter_than_a_step_is_not_usable() {
    let found = problems(&json!({"model": {"queue": 16}}));
    assert_eq!(found[0].0, "model.queue");
    assert!(found[0].1.contains("= 32"), "{}", found[0].1);
}

#[test]
fn heads_must_divide_the_width() {
    assert_eq!(
        problems(&json!({"model": {"text": {"heads": 7}}}))[0].0,
        "model.text.heads"
    );
}

#[test]
fn heads_too_wide_for_gpus_are_refused_where_gpus_alone_compute() {
    let wide = json!({"vision": {"width": 384, "heads": 4}, "text": {"width": 130, "heads": 2}});
    let found = problems(&json!({"model": wide, "pretrain": {"precision": "bf16"}}));
    let paths: Vec<&str> = found.iter().map(|(path, _)| &path[..]).collect();
    assert_eq!(paths, ["model.vision.heads", "model.text.heads"]);
    assert!(
        found[0].1.contains("these have 96") && found[0].1.contains("at least 6"),
        "{}",
        found[0].1
    );
    let document = json!({"name": "j", "kind": "pretrain", "preset": "tiny", "data": {"root": "/d"}, "model": wide});
    let single = Spec::from_document(&document).unwrap();
    assert_eq!(single.model.not_for_gpus().len(), 2, "the processor takes them");
}

#[test]
fn an_image_must_be_whole_patches() {
    let found = problems(&json!({"pretrain": {"image_size": 33}}));
    assert_eq!(found[0].0, "pretrain.image_size");
}

#[test]
fn a_warm_up_longer_than_the_stage_contradicts_it() {
    let found = problems(&json!({"filter": {"length": {"by": "steps", "count": 10}, "warmup_steps": 20}}));
    assert_eq!(found[0].0, "filter.warmup_steps");
}

#[test]
fn a_text_must_fit_the_position_table_and_hold_more_than_the_prompt() {
    let found = problems(&json!({"filter": {"max_tokens": 33}}));
    assert_eq!(found[0].0, "filter.max_tokens");
    assert!(found[0].1.contains("model.text.positions (32)"), "{}", found[0].1);
    let found = problems(&json!({"captioner": {"max_tokens": 5, "prompt": "a picture of "}}));
    assert_eq!(found[0].0, "captioner.max_tokens");
    assert!(found[0].1.contains("at least 6"), "{}", found[0].1);
    assert_eq!(
        problems(&json!({"model": {"text": {"max_tokens": 20}}}))[0].0,
        "model.text.max_tokens"
    );
}

#[test]
fn a_path_out_of_the_root_is_refused() {
    assert_eq!(
        problems(&json!({"data": {"root": "/d", "web": "../x"}}))[0].0,
        "data.web"
    );
    assert_eq!(problems(&json!({"data": {"root": "d"}}))[0].0, "data.root");
}

#[test]
fn only_the_filter_draws_from_all_lanes() {
    assert_eq!(
        problems(&json!({"pretrain": {"negatives": "all"}}))[0].0,
        "pretrain.negatives"
    );
}

#[test]
fn the_precision_is_the_jobs_and_said_once() {
    let job = |change: Value| {
        let mut document = json!({"name": "j", "kind": "bootstrap", "preset": "vit-b", "data": {"root": "/d"}});
        document["pretrain"] = change;
        Spec::from_document(&document).unwrap()
    };
    assert_eq!(job(json!({})).precision(), Precision::Fp32);
    let spec = job(json!({"precision": "bf16"}));
    let handed_on: Spec = serde_json::from_value(serde_json::to_value(&spec).unwrap()).unwrap();
    assert_eq!(
        (handed_on.precision(), handed_on.filter.precision),
        (Precision::Bf16, None)
    );
    assert_eq!(
        problems(&json!({"pretrain": {"precision": "fp8"}}))[0].0,
        "pretrain.precision"
    );
    assert_eq!(
        problems(&json!({"captioner": {"precision": "bf16"}}))[0].0,
        "captioner.precision"
    );
}

#[test]
fn a_teachers_temperature_is_a_divisor() {
    let found = problems(&json!({"filter": {"teacher_temperature": -0.1}}));
    assert_eq!(found[0].0, "filter.teacher_temperature");
}

#[test]
fn weights_are_named_by_absolute_paths_and_replace_stages_of_a_bootstrap_job_only() {
    let found = problems(&json!({"start": {"initial": ["/w/vit.pth", "bert.pth"]}}));
    assert_eq!(found[0].0, "start.initial");
    assert!(found[0].1.contains("bert.pth"), "{}", found[0].1);
    let found = problems(&json!({"kind": "pretrain", "start": {"initial": ["/w"], "pretrained": ["/w"]}}));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "start.pretrained");
    assert_eq!(problems(&json!({"start": {"weights": ["/w"]}}))[0].0, "start.weights");
}

#[test]
fn checkpoints_are_kept_at_multiples_of_the_steps_at_which_they_are_taken() {
    let found = problems(&json!({"checkpoint": {"every_steps": 20, "keep_every_steps": 50, "keep_best": 1001}}));
    let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["checkpoint.keep_every_steps", "checkpoint.keep_best"]);
    assert!(
        found[0].1.contains("is 50") && found[0].1.contains("every 20 steps"),
        "{}",
        found[0].1
    );
}

#[test]
fn what_follows_from_a_problem_is_not_another_one() {
    let paths = |change: Value| problems(&change).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    for (change, cause) in [
        (
            json!({"pretrain": {"peak_lr": -0.1, "min_lr": 0.1}}),
            "pretrain.peak_lr",
        ),
        (
            json!({"lanes": {"count": 0}, "cluster": {"max_ranks": 2}}),
            "lanes.count",
        ),
        (json!({"lanes": 4, "cluster": {"max_ranks": 16}}), "lanes"),
        (json!({"model": {"vision": {"patch": 0}}}), "model.vision.patch"),
        (json!({"model": {"vision": {"patch": 7}}}), "model.vision.image_size"),
        (json!({"model": {"text": {"positions": 0}}}), "model.text.positions"),
        (json!({"model": {"text": {"width": 0}}}), "model.text.width"),
        (
            json!({"pretrain": {"length": {"by": "steps", "count": 0}, "warmup_steps": 3}}),
            "pretrain.length.count",
        ),
        (
            json!({"pretrain": {"length": 7, "warmup_steps": 3000}}),
            "pretrain.length",
        ),
    ] {
        assert_eq!(paths(change), [cause]);
    }
    // What is wrong by itself is told beside it.
    let both = json!({"pretrain": {"peak_lr": -0.1, "min_lr": -1.0}});
    assert_eq!(paths(both), ["pretrain.peak_lr", "pretrain.min_lr"]);
}

#[test]
fn more_ranks_than_lanes_are_refused() {
    assert_eq!(
        problems(&json!({"cluster": {"max_ranks": 99}}))[0].0,
        "cluster.max_ranks"
    );
}

#[test]
fn gradients_travel_as_the_job_says_and_otherwise_as_ranks_can() {
    let of = |collective: Value| problems(&json!({"cluster": {"collective": collective}}));
    assert_eq!(of(json!("rdma"))[0].0, "cluster.collective");
    let mut document = json!({"name": "j", "kind": "bootstrap", "preset": "tiny", "data": {"root": "/d"}});
    assert_eq!(
        Spec::from_document(&document).unwrap().cluster.collective,
        Collective::Auto
    );
    document["cluster"] = json!({"collective": "nccl"});
    assert_eq!(
        Spec::from_document(&document).unwrap().cluster.collective,
        Collective::Nccl
    );
}

#[test]
fn a_wait_for_lost_ranks_ends_before_the_others_give_up() {
    let of = |on_loss: Value| problems(&json!({"cluster": {"on_loss": on_loss}}));
    assert_eq!(of(json!({"wait_s": 61}))[0].0, "cluster.on_loss.wait_s");
    assert_eq!(of(json!({"wait_s": 0}))[0].0, "cluster.on_loss.wait_s");
    assert_eq!(of(json!("wait"))[0].0, "cluster.on_loss");
    let document = json!({
        "name": "j", "kind": "bootstrap", "preset": "tiny", "data": {"root": "/d"}, "cluster": {"on_loss": {"wait_s": 60}},
    });
    assert_eq!(
        Spec::from_document(&document).unwrap().cluster.on_loss,
        OnLoss::Wait(60)
    );
}
