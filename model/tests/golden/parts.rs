//! What can be compared by itself: optimiser, position tables, schedules, negatives, the choice of the next token.

use crate::support::{Golden, below, difference, largest, path};
use medley_model::generate::nucleus::{Sampling, choose};
use medley_model::loss::itm;
use medley_model::ops::optim::AdamW;
use medley_model::positions::resample;
use medley_model::random::{Purpose, Stream};
use medley_model::schedule::Schedule;
use medley_protocol::spec::{Decay, Spec};
use serde_json::Value;

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn adamw_alone_agrees_over_ten_steps() {
    let (golden, lr) = (Golden::open(&path("optimiser.safetensors")), 1e-2);
    let mut p = golden.singles("start");
    let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
    let gradients = golden.singles("gradients");
    for (g, t) in gradients.chunks_exact(p.len()).zip(1..) {
        AdamW::step(t, lr, (0.9, 0.999), 1e-8, 0.5).apply(&mut p, g, 1.0, &mut m, &mut v);
    }
    let exact = golden.get("end");
    for (i, delta) in difference(&p, exact).iter().enumerate() {
        below(&format!("element {i}"), delta.abs(), 1e-5 * exact[i].abs().max(lr));
    }
}

#[test]
fn position_tables_are_resampled_as_by_torch() {
    let golden = Golden::open(&path("positions.safetensors"));
    for (old, new) in [(14, 24), (24, 30), (14, 30), (24, 14)] {
        let table = golden.singles(&format!("table.{old}"));
        let name = format!("{old}.{new}");
        let exact = golden.get(&name);
        let ours = resample(&table, 1 + new * new, 2);
        below(&name, largest(&difference(&ours, exact)), 1e-6 * largest(exact));
    }
}

/// A stage of the paper's recipe, at the released code's decay.
fn schedule(stage: &str) -> Schedule {
    let document = serde_json::json!({"name": "t", "kind": "bootstrap", "preset": "vit-b", "data": {"root": "/d"}});
    let spec = Spec::from_document(&document).unwrap();
    let mut train = if stage == "pretrain" {
        spec.pretrain
    } else {
        spec.filter
    };
    if let Decay::Epoch { factor } = &mut train.decay {
        *factor = 0.9;
    }
    Schedule {
        train,
        steps_per_epoch: 4000,
    }
}

#[test]
fn learning_rates_and_alpha_follow_the_reference() {
    let (golden, pretrain, finetune) = (json("schedule.json"), schedule("pretrain"), schedule("filter"));
    type Curve<'a> = (&'a str, &'a dyn Fn(u64) -> f64);
    let curves: [Curve; 4] = [
        ("pretrain", &|step| pretrain.lr(step)),
        ("finetune", &|step| finetune.lr(step)),
        ("alpha_pretrain", &|step| pretrain.alpha(step)),
        ("alpha_retrieval", &|step| finetune.alpha(step)),
    ];
    for (name, ours) in curves {
        for (step, exact) in numbers(&golden["steps"]).into_iter().zip(numbers(&golden[name])) {
            below(
                &format!("{name} at {step}"),
                (ours(step as u64) - exact).abs(),
                1e-14 * exact + 1e-20,
            );
        }
    }
    for late in golden["late"].as_array().unwrap() {
        let [epoch, exact] = numbers(late)[..] else {
            panic!("{late}")
        };
        below("late", (pretrain.lr(epoch as u64 * 4000) - exact).abs(), 1e-13 * exact);
    }
}

#[test]
fn the_same_negatives_are_drawn() {
    let (golden, b) = (Golden::open(&path("negatives.safetensors")), 6);
    let (i2t, t2i) = (golden.singles("i2t_logits"), golden.singles("t2i_logits"));
    let draws = golden.get("image_negatives").len() / b;
    let drawn = (0..draws as u64).map(|step| {
        let rule = itm::Draw {
            identities: &[1, 2, 3, 4, 5, 6],
            first: 0,
            floor: itm::FLOOR,
            stream: Stream::new(3, Purpose::Negatives).at(step),
        };
        rule.negatives(&i2t, &t2i, b)
    });
    let (images, texts): (Vec<_>, Vec<_>) = drawn.map(|n| (n.image_of_text, n.text_of_image)).unzip();
    assert_eq!(
        difference(&as_floats(&images), golden.get("image_negatives")),
        vec![0.0; draws * b]
    );
    assert_eq!(
        difference(&as_floats(&texts), golden.get("text_negatives")),
        vec![0.0; draws * b]
    );
}

fn as_floats(rows: &[Vec<u32>]) -> Vec<f32> {
    rows.concat().into_iter().map(|i| i as f32).collect()
}

#[test]
fn the_same_tokens_may_come_next_with_the_same_probabilities() {
    for case in json("nucleus.json").as_array().unwrap() {
        let tokens = |name: &str| -> Vec<u32> { numbers(&case[name]).into_iter().map(|t| t as u32).collect() };
        let sampling = Sampling {
            top_p: case["top_p"].as_f64().unwrap() as f32,
            top_k: case["top_k"].as_f64().unwrap() as usize,
            repetition_penalty: case["repetition_penalty"].as_f64().unwrap() as f32,
        };
        let chosen = |u: f64| {
            let mut logits: Vec<f32> = numbers(&case["logits"]).into_iter().map(|v| v as f32).collect();
            let banned = tokens("banned").first().copied();
            choose(&mut logits, &tokens("present"), banned, &sampling, u as f32)
        };
        let mut mass = 0.0;
        for pair in case["kept"].as_array().unwrap() {
            let [token, share] = numbers(pair)[..] else {
                panic!("{pair}")
            };
            for u in [mass + 1e-5 * share, mass + (1.0 - 1e-5) * share] {
                assert_eq!(chosen(u), token as u32, "{u} of {case}");
            }
            mass += share;
        }
    }
}
