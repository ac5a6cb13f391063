//! A small generated corpus with a real store: what the tests of tasks run on.

use crate::objects::Objects;
use crate::rank::failure::Failure;
use crate::stage::inputs;
use crate::stage::tasks::{Desk, Given};
use medley_data::shards;
use medley_data::synth::{SynthSpec, generate};
use medley_data::text::Tokenizer;
use medley_model::blip::Blip;
use medley_model::device::Device;
use medley_model::state::State;
use medley_model::weights::export::{Export, Kind};
use medley_protocol::agent::StageInputs;
use medley_protocol::checkpoint::{CheckpointPart, Manifest, ObjectRef};
use medley_protocol::ids::{CheckpointId, StageId};
use medley_protocol::spec::Spec;
use medley_protocol::tasks::{Counts, Evaluation, Set, ShardName, ShardObject, TaskOutput, TaskWork};
use serde_json::{Value, json};
use std::fs::File;
use std::path::PathBuf;

pub(super) const HUMAN: u32 = 20;
pub(super) const WEB: u32 = 12;
pub(super) const TEST: u32 = 9;

/// A corpus in shards of five, a store, and the spec of a bootstrap job.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) objects: Objects,
    pub(super) spec: Spec,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(&json!({}))
    }

    /// `change` replaces whole sections of the spec.
    pub(super) fn with(change: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let corpus = SynthSpec {
            seed: 5,
            human: HUMAN,
            web: WEB,
            test: TEST,
            shard: 5,
            other: 0.2,
            half_true: 0.2,
            boilerplate: 0.2,
        };
        generate(&corpus, &dir.path().join("data"), &mut |_, _| {}).unwrap();
        let objects = Objects::open(&format!("file://{}/store", dir.path().display())).unwrap();
        let mut document = json!({
            "name": "t", "kind": "bootstrap", "preset": "nano", "data": {"root": dir.path().join("data")},
            "filter": {"image_size": 16}, "capfilt": {"max_tokens": 9},
        });
        for (section, value) in change.as_object().unwrap() {
            for (field, value) in value.as_object().unwrap() {
                document[section][field] = value.clone();
            }
        }
        let spec = Spec::from_document(&document).unwrap();
        Self { dir, objects, spec }
    }

    pub(super) fn perform(&self, inputs: &StageInputs, work: &TaskWork) -> Result<TaskOutput, Failure> {
        let given = Given {
            spec: &self.spec,
            inputs,
            objects: &self.objects,
            device: &Device::Cpu,
        };
        Desk::new(given).perform(work, &mut |_, _| {})
    }

    pub(super) fn set_dir(&self, set: Set) -> PathBuf {
        self.dir.path().join("data").join(set.name())
    }

    pub(super) fn shards(&self, set: Set) -> Vec<ShardName> {
        let files = shards::list(&self.set_dir(set)).unwrap();
        files.into_iter().map(|file| ShardName { set, file }).collect()
    }

    /// Gives every image of a set's first shard a second text: the first one's words backwards.
    pub(super) fn describe_again(&self, set: Set) {
        let path = self.set_dir(set).join("shard-000000.tar");
        let file = File::open(&path).unwrap();
        let mut files = Vec::new();
        for member in shards::members(&path).unwrap().members {
            let bytes = shards::read(&file, member.extent).unwrap();
            if member.extension == "txt" {
                let words = String::from_utf8(bytes.clone()).unwrap();
                let backwards: Vec<&str> = words.split(' ').rev().collect();
                files.push((format!("{}.1.txt", member.key), backwards.join(" ").into_bytes()));
            }
            files.push((format!("{}.{}", member.key, member.extension), bytes));
        }
        shards::write(&path, files.iter().map(|(name, bytes)| (name.clone(), &bytes[..]))).unwrap();
    }

    /// Indexes all sets.
    pub(super) fn indexed(&self) -> Vec<ShardObject> {
        let index = |shard: ShardName| {
            let work = TaskWork::IndexShard { shard: shard.clone() };
            let object = shard_of(self.perform(&StageInputs::default(), &work).unwrap()).0;
            ShardObject { shard, object }
        };
        // The order in which tasks finish does not matter.
        let sets = [Set::Web, Set::Test, Set::Human];
        sets.into_iter().flat_map(|set| self.shards(set)).map(index).collect()
    }

    /// The first dataset version, as inputs of later stages, and its counts.
    pub(super) fn version_0(&self) -> Result<(StageInputs, Counts), Failure> {
        let merge = TaskWork::IndexMerge { shards: self.indexed() };
        self.perform(&StageInputs::default(), &merge).map(dataset_of)
    }

    pub(super) fn tokenizer(&self, inputs: &StageInputs) -> Tokenizer {
        inputs::tokenizer(&self.objects, &self.spec.vocab, inputs.vocab.as_ref()).unwrap()
    }

    pub(super) fn model(&self, inputs: &StageInputs, image_size: u32, seed: u64) -> (Blip, State) {
        let blip = inputs::blip(&self.spec, image_size, self.tokenizer(inputs).vocabulary());
        let state = State::fresh(&blip, seed);
        (blip, state)
    }

    /// A checkpoint of fresh weights.
    pub(super) fn checkpoint(&self, inputs: &StageInputs, image_size: u32, seed: u64) -> Manifest {
        let (_, state) = self.model(inputs, image_size, seed);
        let state_bytes = state.num_bytes() as u64;
        let object = self
            .objects
            .put("state", state.copy_bytes(0..state.num_bytes()))
            .unwrap();
        let part = CheckpointPart {
            step: 0,
            part: 0,
            parts: 1,
            offset_bytes: 0,
            state_bytes,
            object,
            tensors: None,
        };
        Manifest {
            id: CheckpointId::generate(),
            stage: StageId::generate(),
            step: 0,
            state_bytes,
            parts: vec![part],
        }
    }

    /// A directory of transformers with the fresh weights of an image size and a seed.
    pub(super) fn export(&self, inputs: &StageInputs, (image_size, seed): (u32, u64), kind: Kind) -> String {
        let (blip, state) = self.model(inputs, image_size, seed);
        let vocabulary = self.tokenizer(inputs).vocabulary().to_text();
        let out = self.dir.path().join(format!("export-{seed}"));
        let export = Export {
            blip: &blip,
            state: &state,
            vocabulary: &vocabulary,
        };
        export.write(kind, &out).unwrap();
        out.display().to_string()
    }

    /// Version 0 with a captioner and a filter.
    pub(super) fn for_capfilt(&self) -> StageInputs {
        let (mut inputs, _) = self.version_0().unwrap();
        inputs.captioner = Some(self.checkpoint(&inputs, 32, 1));
        inputs.filter = Some(self.checkpoint(&inputs, 16, 2));
        inputs
    }

    pub(super) fn read<T: serde::de::DeserializeOwned>(&self, object: &ObjectRef) -> T {
        inputs::read_json(&self.objects, object).unwrap()
    }
}

pub(super) fn shard_of(output: TaskOutput) -> (ObjectRef, Counts) {
    match output {
        TaskOutput::Shard { object, counts } => (object, counts),
        other => panic!("{other:?}"),
    }
}

pub(super) fn dataset_of(output: TaskOutput) -> (StageInputs, Counts) {
    match output {
        TaskOutput::Dataset { dataset, vocab, counts } => {
            let inputs = StageInputs {
                dataset: Some(dataset),
                vocab: Some(vocab),
                ..StageInputs::default()
            };
            (inputs, counts)
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn evaluation_of(output: TaskOutput) -> (ObjectRef, Evaluation) {
    match output {
        TaskOutput::Evaluation { details, figures } => (details, figures),
        other => panic!("{other:?}"),
    }
}
