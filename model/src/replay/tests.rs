use super::*;
use crate::blip::Guest;
use crate::loss::itm::Negatives;
use safetensors::SafeTensors;
use std::collections::BTreeMap;

/// Name → dtype, shape and bytes of a safetensors file.
type Document = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

const JSON: &str = r#"{
    "vision": {"image_size": 8, "patch": 4, "width": 10, "depth": 2, "heads": 2, "mlp": 11},
    "text": {"width": 9, "depth": 1, "heads": 3, "ffn": 13, "positions": 6},
    "vocab": {"size": 17, "cls": 1, "dec": 3, "enc": 4},
    "embed_dim": 5, "queue": 7
}"#;

fn config() -> Config {
    Config::read("c.json", JSON).unwrap()
}

fn parse(bytes: &[u8]) -> Document {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let copy = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, copy(view)))
        .collect()
}

fn bytes(document: &Document) -> Vec<u8> {
    let views = document
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn floats(shape: &[usize], value: impl Fn(usize) -> f32) -> (Dtype, Vec<usize>, Vec<u8>) {
    let n = shape.iter().product();
    let data = (0..n).flat_map(|i| value(i).to_le_bytes()).collect();
    (Dtype::F32, shape.to_vec(), data)
}

fn integers(shape: &[usize], values: &[i64]) -> (Dtype, Vec<usize>, Vec<u8>) {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (Dtype::I64, shape.to_vec(), data)
}

fn batch_document() -> Document {
    [
        ("image", floats(&[2, 3, 8, 8], |i| (i % 7) as f32 / 7.0 - 0.4)),
        ("input_ids", integers(&[2, 4], &[1, 8, 2, 0, 1, 9, 10, 2])),
        ("attention_mask", integers(&[2, 4], &[1, 1, 1, 0, 1, 1, 1, 1])),
        ("image_negatives", integers(&[2], &[1, 0])),
        ("text_negatives", integers(&[2], &[1, 0])),
        ("alpha", floats(&[], |_| 0.4)),
        ("lr", floats(&[1], |_| 1e-3)),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into()
}

fn batch() -> Batch {
    Batch::read("b", &bytes(&batch_document()), &config()).unwrap()
}

/// A state without two equal tensors, as a file holds it.
fn state_bytes() -> Vec<u8> {
    let blip = config().blip();
    let mut state = State::fresh(&blip, 3);
    state.step = 4;
    state.queue_next = 6;
    for (i, flat) in [&mut state.m, &mut state.v, &mut state.ema].into_iter().enumerate() {
        flat.iter_mut()
            .enumerate()
            .for_each(|(j, v)| *v = 0.01 * (1 + i + j % 5) as f32);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    document::write(&state, &blip, Objective::Pretrain, file.path()).unwrap();
    std::fs::read(file.path()).unwrap()
}

fn read_state(document: &Document) -> Result<State, Error> {
    document::read("s", &bytes(document), &config().blip(), Objective::Pretrain)
}

fn named<T: std::fmt::Debug>(result: Result<T, Error>) -> Vec<String> {
    match result.unwrap_err() {
        Error::Misfit { problems, .. } => problems.into_iter().map(|p| p.name).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_state_that_is_written_and_read_is_the_same() {
    let first = document::read("s", &state_bytes(), &config().blip(), Objective::Pretrain).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    document::write(&first, &config().blip(), Objective::Pretrain, file.path()).unwrap();
    assert_eq!(parse(&std::fs::read(file.path()).unwrap()), parse(&state_bytes()));
    assert_eq!((first.step, first.queue_next), (4, 6));
    assert_eq!(first.v[0], 0.02);
}

#[test]
fn a_queue_is_stored_with_one_column_an_entry() {
    let mut document = parse(&state_bytes());
    document.insert("text_queue".into(), floats(&[5, 7], |i| i as f32));
    let state = read_state(&document).unwrap();
    assert_eq!(state.text_queue[..6], [0.0, 7.0, 14.0, 21.0, 28.0, 1.0]);
}

#[test]
fn tied_weights_may_have_either_name_but_not_two_values() {
    let mut document = parse(&state_bytes());
    let (first, second) = (
        "text_encoder.embeddings.word_embeddings.weight",
        "text_decoder.cls.predictions.decoder.weight",
    );
    let words = document.remove(first).unwrap();
    document.insert(second.into(), words.clone());
    let renamed = read_state(&document).unwrap();
    let plain = read_state(&parse(&state_bytes())).unwrap();
    assert_eq!(renamed.params[..], plain.params[..]);
    document.insert(first.into(), words);
    assert!(read_state(&document).is_ok());
    document.insert(first.into(), floats(&[17, 9], |_| 0.5));
    assert_eq!(named(read_state(&document)), [first]);
}

#[test]
fn every_tensor_that_does_not_fit_is_named() {
    let mut document = parse(&state_bytes());
    document.remove("temp");
    document.remove("exp_avg.temp");
    document.insert("vision_proj.bias".into(), floats(&[4], |_| 0.0));
    document.insert("text_proj_m.bias".into(), integers(&[5], &[0; 5]));
    document.insert("itm_head.bias".into(), floats(&[2], |_| f32::NAN));
    document.insert("queue_ptr".into(), integers(&[1], &[7]));
    document.insert("fc.weight".into(), floats(&[1], |_| 0.0));
    let expected = [
        "temp",
        "vision_proj.bias",
        "itm_head.bias",
        "text_proj_m.bias",
        "queue_ptr",
        "exp_avg.temp",
        "fc.weight",
    ];
    assert_eq!(named(read_state(&document)), expected);
}

#[test]
fn what_the_reference_stores_and_nobody_reads_is_passed_over() {
    let mut document = parse(&state_bytes());
    document.insert(
        "text_encoder.embeddings.position_ids".into(),
        integers(&[1, 2], &[0, 1]),
    );
    let cross = "text_encoder_m.encoder.layer.0.crossattention.self.key.weight";
    document.insert(cross.into(), floats(&[1], |_| 0.0));
    assert!(read_state(&document).is_ok());
}

#[test]
fn without_moments_the_step_is_the_first() {
    let mut document = parse(&state_bytes());
    document.retain(|name, _| !name.starts_with("exp_avg") && name != "optimizer_step");
    let state = read_state(&document).unwrap();
    assert!(state.step == 0 && state.m.iter().chain(state.v.iter()).all(|&v| v == 0.0));
}

#[test]
fn odd_batches_are_refused_by_name() {
    type Edit = (&'static str, (Dtype, Vec<usize>, Vec<u8>));
    let edits: [Edit; 8] = [
        ("image", floats(&[2, 3, 8, 9], |_| 0.0)),
        ("input_ids", integers(&[2, 4], &[2, 8, 2, 0, 1, 9, 10, 2])),
        ("input_ids", integers(&[2, 4], &[1, 8, 2, 0, 1, 9, 17, 2])),
        ("attention_mask", integers(&[2, 4], &[1, 1, 0, 1, 1, 1, 1, 1])),
        ("attention_mask", integers(&[2, 4], &[1, 0, 0, 0, 1, 1, 1, 1])),
        ("image_negatives", integers(&[2], &[1, 2])),
        ("text_negatives", integers(&[3], &[1, 0, 0])),
        ("alpha", floats(&[], |_| 1.5)),
    ];
    for (name, tensor) in edits {
        let mut document = batch_document();
        document.insert(name.into(), tensor);
        let found = Batch::read("b", &bytes(&document), &config());
        assert_eq!(named(found), [name], "{name}");
    }
}

#[test]
fn odd_dimensions_are_refused_by_field() {
    let cases = [
        (r#""heads": 3"#, r#""heads": 4"#, "text.heads"),
        (r#""patch": 4"#, r#""patch": 3"#, "vision.patch"),
        (r#""enc": 4"#, r#""enc": 17"#, "vocab.enc"),
        (r#""ffn": 13"#, r#""ffn": 0"#, "text.ffn"),
        (r#""depth": 1"#, r#""depth": 4000000000"#, "text.depth"),
        (r#""mlp": 11"#, r#""mlp": 2000000"#, "vision.mlp"),
        (r#""queue": 7"#, r#""queue": 7, "momentum": 2"#, "momentum"),
        (r#""queue": 7"#, r#""queue": 7, "lanes": 0"#, "lanes"),
        (r#""queue": 7"#, r#""queue": 7, "lanes": 8"#, "lanes"),
        (r#""queue": 7"#, r#""queue": 7, "prompt_tokens": 5"#, "prompt_tokens"),
        (
            r#""embed_dim": 5, "queue": 7"#,
            r#""embed_dim": 1000000, "queue": 1000000"#,
            "dimensions",
        ),
    ];
    for (from, to, field) in cases {
        assert_eq!(named(Config::read("c", &JSON.replace(from, to))), [field], "{to}");
    }
    let error = Config::read("c.json", &JSON.replace("ffn", "fnn")).unwrap_err();
    assert!(error.to_string().starts_with("c.json: unknown field `fnn`"), "{error}");
}

#[test]
fn the_two_orders_cut_the_same_chain_of_steps_at_different_places() {
    let (blip, reference) = (config().blip(), config());
    let medley = Config {
        order: Order::Medley,
        ..config()
    };
    let mut a = document::read("s", &state_bytes(), &blip, Objective::Pretrain).unwrap();
    let mut b = a.clone();
    a.params[0] = 0.9;
    b.params[0] = 0.5;
    b.settle(&blip, Objective::Pretrain, &medley.train());
    for _ in 0..2 {
        let (x, y) = (
            step(&blip, &reference, &mut a, &batch()).unwrap(),
            step(&blip, &medley, &mut b, &batch()).unwrap(),
        );
        assert_eq!(x.output, y.output);
        assert_eq!(x.gradient[..], y.gradient[..]);
        assert_ne!(a.ema[..], b.ema[..]);
    }
    a.settle(&blip, Objective::Pretrain, &reference.train());
    assert_eq!(a.digest(), b.digest());
}

#[test]
fn given_negatives_are_used() {
    let (blip, config) = (config().blip(), config());
    let state = document::read("s", &state_bytes(), &blip, Objective::Pretrain).unwrap();
    let found = |image_of_text: [u32; 2]| {
        let mut batch = batch();
        batch.negatives = Negatives {
            image_of_text: image_of_text.into(),
            ..batch.negatives
        };
        step(&blip, &config, &mut state.clone(), &batch).unwrap()
    };
    // Fresh weights are nearly indifferent to images, so the losses hardly differ; the gradients do.
    let (foreign, own) = (found([1, 0]), found([0, 1]));
    assert_eq!(foreign.output.losses[0], own.output.losses[0]);
    assert_eq!(foreign.output.losses[2], own.output.losses[2]);
    assert_ne!(foreign.gradient[..], own.gradient[..]);
}

/// A small model whose batches are a captioner's or a filter's, of two lanes.
fn finetuning(objective: &str) -> Config {
    let more = format!(r#""queue": 7, "objective": "{objective}", "lanes": 2, "prompt_tokens": 1"#);
    Config::read("c.json", &JSON.replace(r#""queue": 7"#, &more)).unwrap()
}

#[test]
fn a_batch_holds_what_its_objective_reads_and_nothing_else() {
    let found = |objective: &str, document: &Document| Batch::read("b", &bytes(document), &finetuning(objective));
    let mut document = batch_document();
    let unread = ["alpha", "image_negatives", "text_negatives"];
    assert_eq!(named(found("captioner", &document)), unread);
    document.retain(|name, _| !unread.contains(&name.as_str()));
    assert!(found("captioner", &document).is_ok());
    document = batch_document();
    assert_eq!(named(found("filter", &document)), ["idx"]);
    document.insert("idx".into(), integers(&[2], &[0, -1]));
    assert_eq!(named(found("filter", &document)), ["idx"]);
    document.insert("idx".into(), integers(&[2], &[0, 4]));
    assert_eq!(found("filter", &document).unwrap().identities, [1, 5]);
}

#[test]
fn a_text_that_is_nothing_but_its_prompt_is_refused() {
    let mut document = batch_document();
    document.insert("attention_mask".into(), integers(&[2, 4], &[1, 1, 1, 1, 1, 1, 0, 0]));
    document.retain(|name, _| !["alpha", "image_negatives", "text_negatives"].contains(&name.as_str()));
    let found = Batch::read("b", &bytes(&document), &finetuning("captioner"));
    assert_eq!(named(found), ["attention_mask"]);
}

#[test]
fn an_odd_number_of_samples_has_no_two_lanes() {
    let document = batch_document();
    let three = Config { lanes: 3, ..config() };
    assert_eq!(named(Batch::read("b", &bytes(&document), &three)), ["image"]);
}

#[test]
fn a_lane_sees_negatives_of_other_lanes_as_its_guests() {
    let mut batch = Batch {
        pixels: (0..4).map(|i| i as f32).collect(),
        texts: (0..4).map(|i| vec![1, i, 2]).collect(),
        negatives: Negatives {
            image_of_text: vec![1, 2, 0, 0],
            text_of_image: vec![3, 0, 3, 1],
        },
        identities: vec![9, 8, 7, 6],
        alpha: 0.4,
        lr: 1e-3,
    };
    let lane = batch.lane(1, 2);
    let seen = lane.batch();
    assert_eq!(
        (seen.pixels.host(), seen.identities),
        (&[2.0, 3.0, 0.0][..], &[7, 6][..])
    );
    assert_eq!(seen.guests, [Guest { lane: 0, image: 0 }]);
    assert_eq!(seen.texts, [[1, 2, 2], [1, 3, 2], [1, 1, 2]]);
    assert_eq!(
        (&lane.negatives.image_of_text[..], &lane.negatives.text_of_image[..]),
        (&[2, 2][..], &[1, 2][..])
    );
    batch.identities.clear();
    assert_eq!(batch.lane(1, 2).batch().identities, [3, 4]);
}

#[test]
fn a_filters_state_is_written_and_read_with_the_identities_of_its_queue() {
    let blip = config().blip();
    let mut state = State::fresh(&blip, 3);
    state.queued_identities[2] = 5;
    let file = tempfile::NamedTempFile::new().unwrap();
    document::write(&state, &blip, Objective::Filter, file.path()).unwrap();
    let mut document = parse(&std::fs::read(file.path()).unwrap());
    let read = |document: &Document| document::read("s", &bytes(document), &blip, Objective::Filter);
    assert_eq!(read(&document).unwrap().queued_identities, state.queued_identities);
    assert!(!document.keys().any(|name| name.contains("text_decoder.")));
    document.remove("idx_queue");
    assert_eq!(named(read(&document)), ["idx_queue"]);
}

#[test]
fn a_captioner_passes_over_what_only_pre_training_has() {
    let blip = config().blip();
    let state = document::read("s", &state_bytes(), &blip, Objective::Captioner).unwrap();
    assert!(state.ema.iter().chain(state.image_queue.iter()).all(|&v| v == 0.0));
    assert_ne!(state.params[..], State::zeros(&blip).params[..]);
}
