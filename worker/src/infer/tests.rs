//! A small random model, as a checkpoint and in every layout of an export, and what it says about a few images.

use super::*;
use crate::checkpoint::part_range;
use crate::objects::Objects;
use crate::stage::inputs;
use medley_data::decode::Rgb;
use medley_data::text::Vocabulary;
use medley_model::state::State;
use medley_model::weights::export::{Export, Kind};
use medley_protocol::checkpoint::{CheckpointPart, Manifest};
use medley_protocol::ids::{CheckpointId, StageId};
use medley_protocol::inference::{Checkpoint, Weights};
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[DEC]\n[ENC]\na\nred\nblue\nring\ncube\non\nwhite\nblack\nleft\n";

/// Parts of the checkpoint.
const PARTS: u32 = 7;

struct World(tempfile::TempDir);

impl World {
    /// Images `0.jpg` to `4.jpg`, a file that is no image, and a checkpoint of a stage of this kind.
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        for i in 0..5 {
            let data = (0..40 * 30 * 3).map(|at| (at * (i + 3) % 251) as u8).collect();
            let image = Rgb {
                width: 40,
                height: 30,
                data,
            };
            fs::write(world.path(&format!("{i}.jpg")), decode::encode(&image)).unwrap();
        }
        fs::write(world.path("broken.jpg"), "no image").unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn images(&self, names: &[&str]) -> Vec<String> {
        names.iter().map(|name| self.path(name).display().to_string()).collect()
    }

    fn spec() -> Spec {
        let document = json!({
            "name": "t", "kind": "bootstrap", "preset": "nano", "data": {"root": "/d"}, "captioner": {"prompt": "a "},
        });
        Spec::from_document(&document).unwrap()
    }

    fn state() -> (medley_model::blip::Blip, State) {
        let blip = inputs::blip(&Self::spec(), 32, &Vocabulary::parse(VOCABULARY).unwrap());
        let state = State::fresh(&blip, 5);
        (blip, state)
    }

    fn checkpoint(&self, kind: StageKind) -> Weights {
        let store = format!("file://{}/store", self.0.path().display());
        let objects = Objects::open(&store).unwrap();
        let (_, state) = Self::state();
        let state_bytes = state.num_bytes() as u64;
        let part = |part| {
            let range = part_range(state_bytes, part, PARTS);
            CheckpointPart {
                step: 0,
                part,
                parts: PARTS,
                offset_bytes: range.start,
                state_bytes,
                object: objects
                    .put("state", state.copy_bytes(range.start as usize..range.end as usize))
                    .unwrap(),
                tensors: None,
            }
        };
        let manifest = Manifest {
            id: CheckpointId::generate(),
            stage: StageId::generate(),
            step: 0,
            state_bytes,
            parts: (0..PARTS).map(part).collect(),
        };
        for part in &manifest.parts {
            // As where the checkpoint was fetched to.
            if !manifest.weights().any(|fetched| fetched == part) {
                fs::remove_file(self.path("store").join(&part.object.key)).unwrap();
            }
        }
        Weights::Checkpoint(Box::new(Checkpoint {
            store,
            spec: Self::spec(),
            kind,
            vocab: objects.put("vocabulary", VOCABULARY).unwrap(),
            manifest,
        }))
    }

    fn export(&self, kind: Kind) -> Weights {
        let out = self.path(&format!("{kind:?}"));
        let (blip, state) = Self::state();
        let export = Export {
            blip: &blip,
            state: &state,
            vocabulary: VOCABULARY,
        };
        export.write(kind, &out).unwrap();
        let path = out.display().to_string();
        Weights::Files { path }
    }
}

/// An error with all its causes.
fn refusal<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.unwrap_err())
}

fn how(search: Search, count: u32) -> Captioning {
    Captioning {
        search,
        count,
        prompt: None,
        min_tokens: Some(3),
        max_tokens: Some(9),
        seed: Some(7),
    }
}

fn ask(weights: &Weights, work: Work) -> anyhow::Result<Vec<Answer>> {
    let weights = weights.clone();
    let mut answers = Vec::new();
    answer(&Request { weights, work }, &Device::Cpu, |answer| {
        answers.push(answer);
        Ok(())
    })?;
    Ok(answers)
}

fn caption(weights: &Weights, images: Vec<String>, how: Captioning) -> anyhow::Result<Vec<Answer>> {
    ask(weights, Work::Caption { images, how })
}

fn matching(weights: &Weights, image: &str, texts: &[&str]) -> anyhow::Result<Vec<Matched>> {
    let (image, texts) = (image.into(), texts.iter().map(|text| (*text).to_owned()).collect());
    match ask(weights, Work::Match { image, texts })?.remove(0) {
        Answer::Matches { matches, .. } => Ok(matches),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_has_the_same_captions_alone_and_among_others() {
    let world = World::new();
    let weights = world.checkpoint(StageKind::Captioner);
    let images = world.images(&["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]);
    for (search, count) in [(Search::Greedy, 1), (Search::Beam, 2), (Search::Nucleus, 3)] {
        let together = caption(&weights, images.clone(), how(search, count)).unwrap();
        let mut alone = Vec::new();
        for image in &images {
            alone.extend(caption(&weights, vec![image.clone()], how(search, count)).unwrap());
        }
        assert_eq!(together, alone, "{search:?}");
        for (answer, path) in together.iter().zip(&images) {
            let Answer::Captions { image, captions } = answer else {
                panic!("{answer:?}")
            };
            assert_eq!((image, captions.len()), (path, count as usize));
            assert!(
                captions.iter().all(|caption| caption.log_probability < 0.0),
                "{captions:?}"
            );
        }
    }
}

#[test]
fn the_seed_draws_the_captions_of_a_nucleus() {
    let world = World::new();
    let weights = world.checkpoint(StageKind::Pretrain);
    let drawn = |seed| {
        let how = Captioning {
            seed: Some(seed),
            ..how(Search::Nucleus, 4)
        };
        caption(&weights, world.images(&["0.jpg"]), how).unwrap()
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

#[test]
fn an_image_that_cannot_be_read_is_answered_by_why_and_the_others_as_ever() {
    let world = World::new();
    let weights = world.checkpoint(StageKind::Captioner);
    let mut images = world.images(&["0.jpg", "broken.jpg", "nowhere.jpg", "1.jpg"]);
    images.push("/dev/zero".to_owned());
    let answers = caption(&weights, images.clone(), how(Search::Beam, 1)).unwrap();
    let good = caption(&weights, world.images(&["0.jpg", "1.jpg"]), how(Search::Beam, 1)).unwrap();
    assert_eq!([&answers[0], &answers[3]], [&good[0], &good[1]]);
    let expected = [
        (1, "not a readable JPEG or PNG"),
        (2, "No such file"),
        (4, "a device, not a regular file"),
    ];
    for (at, why) in expected {
        let Answer::Unreadable { image, reason } = &answers[at] else {
            panic!("{:?}", answers[at])
        };
        assert!(*image == images[at] && reason.contains(why), "{reason}");
    }
}

#[test]
fn files_of_every_layout_say_what_the_checkpoint_says() {
    let world = World::new();
    let image = world.images(&["3.jpg"]);
    let texts = ["a red ring", "a blue cube on white"];
    let expected = caption(
        &world.checkpoint(StageKind::Pretrain),
        image.clone(),
        how(Search::Beam, 2),
    )
    .unwrap();
    let matched = matching(&world.checkpoint(StageKind::Pretrain), &image[0], &texts).unwrap();
    for kind in [Kind::HfCaption, Kind::Pth, Kind::Safetensors] {
        let said = caption(&world.export(kind), image.clone(), how(Search::Beam, 2)).unwrap();
        assert_eq!(said, expected, "{kind:?}");
    }
    assert_eq!(
        matching(&world.export(Kind::HfRetrieval), &image[0], &texts).unwrap(),
        matched
    );
    assert!(
        matched
            .iter()
            .all(|m| 0.0 < m.probability && m.probability < 1.0 && m.cosine.abs() <= 1.0)
    );
    assert_ne!(matched[0].probability, matched[1].probability);
}

#[test]
fn a_stages_prompt_is_the_beginning_unless_another_is_given() {
    let world = World::new();
    let weights = world.checkpoint(StageKind::Captioner);
    let said = |prompt: Option<&str>| {
        let how = Captioning {
            prompt: prompt.map(str::to_owned),
            ..how(Search::Greedy, 1)
        };
        caption(&weights, world.images(&["0.jpg"]), how).unwrap()
    };
    assert_eq!(said(None), said(Some("a")));
    assert_ne!(said(None), said(Some("blue ring on")));
}

#[test]
fn weights_without_what_the_work_needs_are_refused_with_the_tensors_name() {
    let world = World::new();
    let image = world.images(&["0.jpg"]);
    let error = refusal(caption(
        &world.export(Kind::HfRetrieval),
        image.clone(),
        how(Search::Beam, 1),
    ));
    assert!(
        error.contains("text_decoder.") && error.contains("captioner"),
        "{error}"
    );
    let error = refusal(matching(&world.export(Kind::HfCaption), &image[0], &["a"]));
    assert!(
        error.contains("model.safetensors: lacks") && error.contains("matcher"),
        "{error}"
    );
    let error = refusal(matching(&world.checkpoint(StageKind::Captioner), &image[0], &["a"]));
    assert!(
        error.contains("captioner stage cannot") && error.contains("filter or pretrain"),
        "{error}"
    );
}

#[test]
fn a_missing_vocabulary_a_missing_description_and_missing_weights_are_told_by_their_places() {
    let world = World::new();
    let image = world.images(&["0.jpg"]);
    let weights = world.export(Kind::Safetensors);
    let fails = || refusal(caption(&weights, image.clone(), how(Search::Beam, 1)));
    let folder = world.path("Safetensors");
    fs::remove_file(folder.join("vocab.txt")).unwrap();
    let error = fails();
    assert!(
        error.contains("Safetensors: there is no vocab.txt or tokenizer.json"),
        "{error}"
    );
    fs::remove_file(folder.join("model.json")).unwrap();
    let error = fails();
    assert!(
        error.contains("none of the released models") && error.contains("model.json"),
        "{error}"
    );
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let error = fails();
    assert!(error.contains("name the file of weights"), "{error}");
}

#[test]
fn a_description_that_cannot_be_is_refused_by_its_field() {
    let world = World::new();
    let weights = world.export(Kind::Pth);
    let path = world.path("Pth/model.json");
    let mut description: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    description["model"]["text"]["heads"] = json!(7);
    fs::write(&path, description.to_string()).unwrap();
    let error = refusal(caption(&weights, world.images(&["0.jpg"]), how(Search::Beam, 1)));
    assert!(
        error.contains("model.pth") && error.contains("model.text.heads"),
        "{error}"
    );
}

#[test]
fn lengths_that_leave_no_room_are_refused_by_their_flags() {
    let world = World::new();
    let weights = world.checkpoint(StageKind::Captioner);
    for (min_tokens, max_tokens, flag) in [(3, 33, "--max-tokens"), (9, 9, "--min-tokens"), (3, 2, "--max-tokens")] {
        let how = Captioning {
            min_tokens: Some(min_tokens),
            max_tokens: Some(max_tokens),
            ..how(Search::Beam, 1)
        };
        let error = refusal(caption(&weights, world.images(&["0.jpg"]), how));
        assert!(error.contains(flag), "{error}");
    }
    let error = refusal(caption(&weights, world.images(&["0.jpg"]), how(Search::Beam, 0)));
    assert!(error.contains("--count"), "{error}");
}
