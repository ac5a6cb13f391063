//! Weights of other programs, read and written: files that PyTorch and transformers made (`weights/make.py`), and what they
//! computed with them.
#![allow(clippy::unwrap_used, missing_docs)]

use medley_model::blip::Blip;
use medley_model::device::{Device, Pool};
use medley_model::generate::beam::{Beam, Length};
use medley_model::generate::nucleus::GREEDY;
use medley_model::generate::{CaptionRequest, Reader, Search};
use medley_model::params::Vocabulary;
use medley_model::random::{Purpose, Stream};
use medley_model::state::State;
use medley_model::tape::{Tape, Weights};
use medley_model::text::{Grounding, Packed};
use medley_model::vision::Tokens;
use medley_model::weights::export::{Export, Kind};
use medley_model::weights::{Error, Report, Source, Start};
use medley_protocol::spec::Spec;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};

const CLS: u32 = 2;
const SEP: u32 = 3;
const DEC: u32 = 18;
const ENC: u32 = 19;
const TEXT: [u32; 6] = [CLS, 5, 9, 7, 11, SEP];
const IMAGES: usize = 2;
const SIDE: u32 = 8;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/weights/files")
        .join(name)
}

fn blip(image_size: u32) -> Blip {
    let document = serde_json::json!({
        "name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"},
        "model": {
            "vision": {"image_size": image_size, "patch": 4, "width": 8, "depth": 2, "heads": 2, "mlp": 16},
            "text": {"width": 12, "depth": 2, "heads": 3, "ffn": 24, "positions": 16},
            "embed_dim": 6, "queue": 8,
        },
        "lanes": {"count": 1, "batch": 2}, "cluster": {"max_ranks": 1},
        "pretrain": {"image_size": image_size, "max_tokens": 10},
    });
    let vocab = Vocabulary {
        size: 20,
        pad: 0,
        cls: CLS,
        sep: SEP,
        dec: DEC,
        enc: ENC,
    };
    Blip::new(&Spec::from_document(&document).unwrap().model, image_size, vocab)
}

fn start(names: &[&str], blip: &Blip) -> Result<(State, Report), Error> {
    let files: Vec<PathBuf> = names.iter().map(|name| file(name)).collect();
    let start = Start {
        files: &files,
        seed: 1,
        momentum: 0.995,
    };
    start.load(blip)
}

fn loaded(name: &str, blip: &Blip) -> State {
    start(&[name], blip).unwrap().0
}

/// A tensor that PyTorch computed.
fn expected(name: &str) -> Vec<f32> {
    let mut source = Source::open(&file("expected.safetensors")).unwrap();
    let index = source.tensors().iter().position(|tensor| tensor.name == name).unwrap();
    source.read(index).unwrap()
}

fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-5 * largest.max(1.0),
            "{found} {expected}"
        );
    }
}

fn entry<'a>(blip: &Blip, state: &'a State, name: &str) -> &'a [f32] {
    let layout = &blip.student_layout;
    &state.params[layout.entry(layout.id(name)).range()]
}

fn image_states(blip: &Blip, state: &State, pixels: &[f32]) -> Vec<f32> {
    let mut pool = Pool::default();
    let mut tape = Tape::inference(weights(blip, state), &mut pool);
    let states = blip
        .student
        .vision
        .forward(&mut tape, pixels, IMAGES, None, Tokens::All);
    tape.read(states)
}

fn weights<'a>(blip: &'a Blip, state: &'a State) -> Weights<'a> {
    Weights::new(&blip.student_layout, &state.params)
}

/// Logits of the decoder for the text after each image.
fn caption_logits(blip: &Blip, state: &State, pixels: &[f32]) -> Vec<f32> {
    let mut pool = Pool::default();
    let mut tape = Tape::inference(weights(blip, state), &mut pool);
    let text = &blip.student.text;
    let images = blip
        .student
        .vision
        .forward(&mut tape, pixels, IMAGES, None, Tokens::All);
    let keys = text.image_keys(&mut tape, images);
    let grounding = |image_of: Vec<u32>| Grounding {
        image_of,
        tokens: blip.image_tokens,
    };
    let mut generated = Packed::new();
    (0..IMAGES as u32).for_each(|image| generated.push(DEC, &TEXT, image));
    let nothing = (Packed::new(), grounding(Vec::new()));
    let both = (generated, grounding((0..IMAGES as u32).collect()));
    let (_, states) = text.multimodal(&mut tape, (&nothing.0, &nothing.1), (&both.0, &both.1), &keys, None);
    let logits = text.predict(&mut tape, states.unwrap());
    tape.read(logits)
}

fn reader(blip: &Blip, state: &State) -> Reader {
    let blip = Blip::new(&blip.model, blip.image_size, blip.vocab);
    Reader::new(blip, state.params.clone(), &Device::Cpu)
}

/// Logits of the matching head, and cosines, for the text and each image.
fn matching(blip: &Blip, state: &State, pixels: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut reader = reader(blip, state);
    let pairs: Vec<(u32, u32)> = (0..IMAGES as u32).map(|image| (image, 0)).collect();
    let texts = [TEXT.to_vec()];
    let logits = reader.match_logits(pixels, IMAGES, &texts, &pairs).unwrap();
    let images = reader.image_features(pixels, IMAGES).unwrap();
    let text = reader.text_features(&texts).unwrap();
    let cosine = |image: &[f32]| image.iter().zip(&text).map(|(a, b)| a * b).sum();
    let cosines = images.chunks_exact(text.len()).map(cosine).collect();
    (logits.concat(), cosines)
}

#[test]
fn a_captioner_of_transformers_gives_its_logits() {
    let blip = blip(SIDE);
    let (state, report) = start(&["hf-caption"], &blip).unwrap();
    assert_near(
        &caption_logits(&blip, &state, &expected("pixels")),
        &expected("caption_logits"),
    );
    assert!(
        report
            .initialised
            .iter()
            .all(|drawn| !drawn.entry.starts_with("visual_encoder."))
    );
    let missing: Vec<&str> = report.initialised.iter().map(|drawn| drawn.entry.as_str()).collect();
    assert!(missing.contains(&"itm_head.weight") && missing.contains(&"temp"));
    assert!(missing.contains(&"text_encoder.encoder.layer.0.attention.self.query.weight"));
}

#[test]
fn a_matcher_of_transformers_gives_its_logits_and_cosines() {
    let blip = blip(SIDE);
    let state = loaded("hf-retrieval", &blip);
    let (logits, cosines) = matching(&blip, &state, &expected("pixels"));
    assert_near(&logits, &expected("match_logits"));
    assert_near(&cosines, &expected("cosines"));
}

#[test]
fn a_released_checkpoint_gives_all_of_it_and_its_pending_updates_are_done() {
    let blip = blip(SIDE);
    let (state, report) = start(&["released.pth"], &blip).unwrap();
    assert_eq!(report.initialised, []);
    assert_near(
        &caption_logits(&blip, &state, &expected("pixels")),
        &expected("caption_logits"),
    );
    assert_near(
        &matching(&blip, &state, &expected("pixels")).0,
        &expected("match_logits"),
    );
    assert_eq!((state.temperature(&blip), state.queue_next), (0.5, 5));
    let mut source = Source::open(&file("released.pth")).unwrap();
    let mut tensor = |name: &str| {
        let index = source.tensors().iter().position(|tensor| tensor.name == name).unwrap();
        source.read(index).unwrap()
    };
    let (momentum, student) = (tensor("visual_encoder_m.cls_token"), tensor("visual_encoder.cls_token"));
    let at = blip
        .momentum_layout
        .entry(blip.momentum_layout.id("visual_encoder.cls_token"))
        .range();
    let averaged: Vec<f32> = momentum
        .iter()
        .zip(&student)
        .map(|(m, p)| 0.995 * m + 0.005 * p)
        .collect();
    assert_near(&state.ema[at], &averaged);
    let queue = tensor("image_queue");
    assert_eq!(state.image_queue[6 + 2], queue[2 * 8 + 1], "feature 1, element 2");
    let unused = &report.files[0].unused;
    let reasons: Vec<&str> = unused.iter().map(|unused| unused.reason.as_str()).collect();
    assert!(
        reasons.contains(&"nobody reads the momentum encoder's cross-attention"),
        "{reasons:?}"
    );
    assert_eq!(
        unused.len(),
        2 * 10 + 3,
        "cross-attention of two layers and three tables of numbers"
    );
}

#[test]
fn a_question_answerer_gives_image_tower_and_encoder_and_what_of_its_decoder_is_not_shared() {
    let blip = blip(SIDE);
    let (state, report) = start(&["hf-vqa"], &blip).unwrap();
    let released = loaded("released.pth", &blip);
    for name in [
        "visual_encoder.cls_token",
        "text_encoder.encoder.layer.1.crossattention.self.key.weight",
    ] {
        assert_eq!(entry(&blip, &state, name), entry(&blip, &released, name));
    }
    let own = entry(
        &blip,
        &state,
        "text_decoder.bert.encoder.layer.1.attention.self.query.weight",
    );
    assert_eq!(own, expected("answerer_self"));
    let shared = report.files[0]
        .unused
        .iter()
        .filter(|unused| unused.reason.contains("shares this"));
    assert!(shared.count() > 30);
}

#[test]
fn image_towers_under_all_names_are_the_same_bits() {
    let blip = blip(SIDE);
    let (state, report) = start(&["vit.pth"], &blip).unwrap();
    assert_near(
        &image_states(&blip, &state, &expected("pixels")),
        &expected("image_states"),
    );
    let unused: Vec<&str> = report.files[0]
        .unused
        .iter()
        .map(|unused| unused.tensor.as_str())
        .collect();
    assert_eq!(unused, ["head.weight", "head.bias"]);
    for other in ["vit-hf.safetensors", "vit.npz"] {
        let (other, report) = start(&[other], &blip).unwrap();
        assert_eq!(&other.params[..], &state.params[..]);
        assert!(
            report
                .initialised
                .iter()
                .all(|drawn| !drawn.entry.starts_with("visual_encoder."))
        );
    }
    let brief = loaded("vit-bf16.safetensors", &blip);
    for (brief, full) in brief.params.iter().zip(state.params.iter()) {
        assert!((brief - full).abs() <= full.abs() / 250.0);
    }
}

#[test]
fn a_position_table_is_resampled_as_the_reference_does() {
    let larger = blip(12);
    let (state, report) = start(&["vit.pth"], &larger).unwrap();
    assert_near(
        entry(&larger, &state, "visual_encoder.pos_embed"),
        &expected("larger_positions"),
    );
    let table = report.files[0]
        .matched
        .iter()
        .find(|matched| matched.tensor == "pos_embed")
        .unwrap();
    assert_eq!(table.note, "resampled from 2 × 2 patches to 3 × 3");
}

#[test]
fn bert_starts_both_text_towers_and_the_added_tokens_are_drawn() {
    let blip = blip(SIDE);
    let (state, report) = start(&["vit.npz", "bert.safetensors"], &blip).unwrap();
    let mut pool = Pool::default();
    let mut tape = Tape::inference(weights(&blip, &state), &mut pool);
    let mut texts = Packed::new();
    texts.push(CLS, &TEXT, 0);
    let first = blip.student.text.encode(&mut tape, &texts, None);
    assert_near(&tape.read(first), &expected("bert_states")[..12]);
    let layer = |tower: &str| format!("{tower}.encoder.layer.1.attention.output.LayerNorm.bias");
    let (encoder, decoder) = (layer("text_encoder"), layer("text_decoder.bert"));
    assert_eq!(entry(&blip, &state, &encoder), entry(&blip, &state, &decoder));
    let fresh = State::fresh(&blip, 1);
    let words = "text_encoder.embeddings.word_embeddings.weight";
    assert_eq!(
        entry(&blip, &state, words)[18 * 12..],
        entry(&blip, &fresh, words)[18 * 12..]
    );
    assert_ne!(
        entry(&blip, &state, words)[..18 * 12],
        entry(&blip, &fresh, words)[..18 * 12]
    );
    let words = report.initialised.iter().find(|drawn| drawn.entry == words).unwrap();
    assert_eq!((words.rows, words.of_rows), (2, 20));
    let drawn: Vec<&str> = report.initialised.iter().map(|drawn| drawn.entry.as_str()).collect();
    assert!(drawn.contains(&"text_encoder.encoder.layer.0.crossattention.self.key.weight"));
    assert!(drawn.iter().all(|entry| !entry.contains(".intermediate.")));
    let shown = report.to_string();
    assert!(
        shown.contains("unused: bert.embeddings.token_type_embeddings.weight: BLIP's text towers"),
        "{shown}"
    );
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let blip = blip(SIDE);
    let refused = |name: &str| start(&[name], &blip).unwrap_err().to_string();
    let old = refused("vit-old.pth");
    assert!(
        old.contains("vit-old.pth") && old.contains("older") && old.contains("torch.save"),
        "{old}"
    );
    assert!(refused("hf-caption/config.json").contains("no file of weights"));
    assert!(refused("nowhere.pth").contains("nowhere.pth"));
    let device = start(&["/dev/zero"], &blip).unwrap_err();
    assert!(
        device.to_string() == "/dev/zero: it is a device, not a regular file" && !device.may_pass(),
        "{device}"
    );
    let compressed = refused("vit-compressed.npz");
    assert!(
        compressed.contains("it is compressed") && compressed.contains("numpy.savez("),
        "{compressed}"
    );
    assert!(refused("expected.safetensors").contains("no model that is known"));
    let shape = start(&["vit.pth"], &wider()).unwrap_err().to_string();
    assert!(
        shape.contains("tensor cls_token: has the shape [1, 1, 8]") && shape.contains("[1, 1, 16]"),
        "{shape}"
    );
}

#[test]
fn a_header_of_more_tensors_than_models_have_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let mut bytes = (3_u64 << 20).to_le_bytes().to_vec();
    bytes.extend(b"{}");
    bytes.resize(8 + (3 << 20), b' ');
    std::fs::write(&path, bytes).unwrap();
    let error = Source::open(&path).err().unwrap().to_string();
    assert!(error.contains("3145728 bytes, and 2 MiB at most"), "{error}");
}

#[test]
fn weights_in_several_files_are_those_in_one() {
    let blip = blip(SIDE);
    let (whole, report) = start(&["hf-caption"], &blip).unwrap();
    for (name, index) in [
        ("hf-shards", "model.safetensors"),
        ("hf-shards-bin", "pytorch_model.bin"),
    ] {
        let index = format!("{name}/{index}.index.json");
        for given in [name, &index] {
            let (state, shards) = start(&[given], &blip).unwrap();
            assert_eq!(state.params[..], whole.params[..], "{given}");
            assert_eq!(shards.files[0].path, file(&index));
            assert_eq!(shards.initialised, report.initialised);
        }
    }
}

/// A copy of weights in several files, and what is said of them.
fn damaged(damage: impl FnOnce(&Path)) -> String {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(file("hf-shards")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    damage(directory.path());
    match Source::open(directory.path()) {
        Ok(_) => "nothing is wrong".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_missing_file_of_several_and_a_tensor_that_is_elsewhere_are_named() {
    let second = "model-00002-of-00003.safetensors";
    let said = damaged(|directory| std::fs::remove_file(directory.join(second)).unwrap());
    assert!(
        said.contains(&format!("{second}: this file is missing")) && said.contains("tensors lie in it"),
        "{said}"
    );
    let index = |directory: &Path, from: &str, to: &str| {
        let path = directory.join("model.safetensors.index.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    let said = damaged(|directory| index(directory, "vision_model.post_layernorm.bias", "vision_model.nothing"));
    assert!(said.contains("tensor vision_model.nothing: it is not there"), "{said}");
    let said = damaged(|directory| index(directory, second, "../elsewhere.safetensors"));
    assert!(said.contains("not of its own directory"), "{said}");
    let said = damaged(|directory| index(directory, "weight_map", "map"));
    assert!(said.contains("it is no index"), "{said}");
}

fn wider() -> Blip {
    let mut model = blip(SIDE).model;
    model.vision.width = 16;
    Blip::new(&model, SIDE, blip(SIDE).vocab)
}

#[test]
fn twins_that_differ_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let written = |twin: f32| {
        let values = [[1.0_f32; 20], [twin; 20]].map(|row| row.map(f32::to_le_bytes).concat());
        let view = |values| TensorView::new(Dtype::F32, vec![20], values).unwrap();
        let names = [
            "text_decoder.cls.predictions.bias",
            "text_decoder.cls.predictions.decoder.bias",
        ];
        let bytes = safetensors::serialize(names.into_iter().zip([view(&values[0]), view(&values[1])]), None).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let files = [&path];
        let start = Start {
            files: &files,
            seed: 1,
            momentum: 0.9,
        };
        start
            .load(&blip(SIDE))
            .map(|(state, _)| entry(&blip(SIDE), &state, names[1]).to_vec())
    };
    assert_eq!(written(1.0).unwrap(), [1.0; 20]);
    let error = written(2.0).unwrap_err().to_string();
    assert!(error.contains("differs from text_decoder.cls.predictions."), "{error}");
}

/// Twenty tokens, of which the texts here use some.
const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nred\nring\nbelow\nthe\nblue\ncube\n##s\nof\nand\nover\nsmall\n\
                          large\n,\n[DEC]\n[ENC]\n";

/// Writes all exports of a model, and what it computes, for `golden/roundtrip.py` to load and compare.
fn write_exports(blip: &Blip, state: &State, directory: &Path) {
    let export = Export {
        blip,
        state,
        vocabulary: VOCABULARY,
    };
    for (kind, name) in EXPORTS {
        export.write(kind, &directory.join(name)).unwrap();
    }
    let pixels = expected("pixels");
    let (logits, cosines) = matching(blip, state, &pixels);
    let outputs = serde_json::json!({
        "pixels": pixels,
        "text": TEXT,
        "caption_logits": caption_logits(blip, state, &pixels),
        "match_logits": logits,
        "cosines": cosines,
        "captioned": captioned(),
        "captions": SEARCHES.map(|search| captions(blip, state, search)),
    });
    std::fs::write(directory.join("outputs.json"), outputs.to_string()).unwrap();
}

/// How captions are searched, as `golden/roundtrip.py` reads it.
#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Searching {
    beams: usize,
    count: usize,
    prompt: &'static [u32],
    min_tokens: usize,
    max_tokens: usize,
}

const SEARCHES: [Searching; 6] = [
    searching((1, 1), &[], (1, 14)),
    searching((1, 1), &[4], (5, 14)),
    searching((3, 1), &[], (1, 14)),
    searching((3, 1), &[4], (5, 14)),
    searching((3, 3), &[4, 5], (4, 9)),
    searching((5, 2), &[], (6, 12)),
];

const fn searching(
    (beams, count): (usize, usize),
    prompt: &'static [u32],
    (min_tokens, max_tokens): (usize, usize),
) -> Searching {
    Searching {
        beams,
        count,
        prompt,
        min_tokens,
        max_tokens,
    }
}

const CAPTIONED: usize = 8;
/// Added to the logit of `[SEP]`, so that captions have many lengths.
const ENDING: f32 = 3.5;

/// Pixels of the images that are captioned: so different that their captions are.
fn captioned() -> Vec<f32> {
    let stream = Stream::new(7, Purpose::Init);
    let pixels = (0..CAPTIONED as u32 * 3 * SIDE * SIDE).map(|i| 8.0 * stream.uniform([i, 0, 0, 0]) - 4.0);
    pixels.collect()
}

fn captions(blip: &Blip, state: &State, searching: Searching) -> serde_json::Value {
    let beam = Beam {
        beams: searching.beams,
        length_penalty: 1.0,
        repetition_penalty: 1.0,
        length: Length::Generated,
    };
    let request = CaptionRequest {
        search: match searching.beams {
            1 => Search::Sample(GREEDY),
            _ => Search::Beam(beam),
        },
        count: searching.count,
        prompt: searching.prompt,
        min_tokens: searching.min_tokens,
        max_tokens: searching.max_tokens,
        seed: 0,
    };
    let captions = reader(blip, state)
        .captions(&captioned(), &[0; CAPTIONED], &request)
        .unwrap();
    let tokens: Vec<Vec<u32>> = captions.into_iter().map(|caption| caption.tokens).collect();
    serde_json::json!({"search": searching, "tokens": tokens})
}

const EXPORTS: [(Kind, &str); 4] = [
    (Kind::HfCaption, "hf-caption"),
    (Kind::HfRetrieval, "hf-retrieval"),
    (Kind::Pth, "pth"),
    (Kind::Safetensors, "safetensors"),
];

#[test]
fn what_is_written_is_read_back_to_the_last_bit() {
    let blip = blip(SIDE);
    let mut state = loaded("released.pth", &blip);
    // Random weights would hardly ever end a caption.
    let biases = blip.student_layout.id("text_decoder.cls.predictions.bias");
    state.params[blip.student_layout.entry(biases).offset + SEP as usize] += ENDING;
    let temporary = tempfile::tempdir().unwrap();
    // `scripts/roundtrip.sh` says where, and then loads it all with transformers.
    let wanted = std::env::var_os("MEDLEY_ROUNDTRIP").map(PathBuf::from);
    let directory = wanted.as_deref().unwrap_or(temporary.path());
    write_exports(&blip, &state, directory);
    let read = |name: &str| {
        let (kind, _) = EXPORTS.iter().find(|(_, export)| *export == name).unwrap();
        let files = [directory.join(name).join(kind.file())];
        let start = Start {
            files: &files,
            seed: 2,
            momentum: 1.0,
        };
        start.load(&blip).unwrap()
    };
    for name in ["pth", "safetensors"] {
        let (back, report) = read(name);
        assert_eq!(report.initialised, []);
        assert_eq!(back.params[..], state.params[..], "{name}");
        assert_eq!(back.ema[..], state.ema[..], "{name}");
        assert_eq!(
            (&back.image_queue[..], back.queue_next),
            (&state.image_queue[..], 5),
            "{name}"
        );
    }
    let pixels = expected("pixels");
    let (captioner, _) = read("hf-caption");
    assert_eq!(
        caption_logits(&blip, &captioner, &pixels),
        caption_logits(&blip, &state, &pixels)
    );
    let (matcher, _) = read("hf-retrieval");
    assert_eq!(matching(&blip, &matcher, &pixels), matching(&blip, &state, &pixels));
}

#[test]
fn an_export_replaces_nothing_and_leaves_nothing_half_written() {
    let (blip, directory) = (blip(SIDE), tempfile::tempdir().unwrap());
    let state = State::fresh(&blip, 1);
    let out = directory.path().join("out");
    let export = Export {
        blip: &blip,
        state: &state,
        vocabulary: VOCABULARY,
    };
    export.write(Kind::HfCaption, &out).unwrap();
    let again = export.write(Kind::Pth, &out).unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(out.join("config.json").is_file() && !out.join("model.pth").exists());
    let mode = |name: &str| std::fs::metadata(out.join(name)).unwrap().permissions();
    assert_eq!(
        mode("model.safetensors"),
        mode("config.json"),
        "whoever may read one may read the other"
    );
}

#[test]
fn a_damaged_storage_is_noticed_by_its_checksum() {
    let mut bytes = std::fs::read(file("vit.pth")).unwrap();
    let needle = expected("larger_positions")[0].to_le_bytes();
    let at = bytes.windows(4).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vit.pth");
    std::fs::write(&path, bytes).unwrap();
    let files = [path];
    let start = Start {
        files: &files,
        seed: 1,
        momentum: 0.9,
    };
    let error = start.load(&blip(SIDE)).unwrap_err().to_string();
    assert!(error.contains("tensor pos_embed: it is damaged"), "{error}");
}

/// Opens and reads a file wherever its bytes lead.
fn read_all(bytes: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(mut source) = Source::open(&path) {
        for index in 0..source.tensors().len() {
            let _ = source.read(index);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_damage_makes_reading_panic(
        name in prop::sample::select(vec!["vit.pth", "vit.npz", "vit-hf.safetensors"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        front in any::<bool>(),
        kept in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = std::fs::read(file(name)).unwrap();
        // Headers and pickle are at the front, the zip's directory at the back.
        let (length, window) = (bytes.len(), bytes.len().min(4000));
        for (at, value) in damage {
            let at = at.index(window);
            bytes[if front { at } else { length - 1 - at }] = value;
        }
        if let Some(kept) = kept {
            bytes.truncate(kept.index(length));
        }
        read_all(&bytes);
    }
}
