//! The first dataset version and its vocabulary, made in this process by the tasks of an index stage.

use crate::objects::Objects;
use crate::stage::tasks::{Desk, Given};
use anyhow::{Context as _, bail};
use medley_data::shards;
use medley_model::device::Device;
use medley_protocol::agent::StageInputs;
use medley_protocol::spec::Spec;
use medley_protocol::tasks::{Counts, Set, ShardName, ShardObject, TaskOutput, TaskWork};
use std::path::Path;

/// Indexes the sets of the spec; what was made, and its counts.
pub(super) fn index(spec: &Spec, objects: &Objects) -> anyhow::Result<(StageInputs, Counts)> {
    let inputs = StageInputs::default();
    let mut desk = Desk::new(Given {
        spec,
        inputs: &inputs,
        objects,
        device: &Device::Cpu,
    });
    let mut indexed = Vec::new();
    for shard in shard_names(spec)? {
        let work = TaskWork::IndexShard { shard: shard.clone() };
        if let TaskOutput::Shard { object, .. } = desk.perform(&work, &mut |_, _| {})? {
            indexed.push(ShardObject { shard, object });
        }
    }
    let merge = TaskWork::IndexMerge { shards: indexed };
    let TaskOutput::Dataset { dataset, vocab, counts } = desk.perform(&merge, &mut |_, _| {})? else {
        bail!("the index made no dataset version");
    };
    let made = StageInputs {
        dataset: Some(dataset),
        vocab: Some(vocab),
        ..inputs
    };
    Ok((made, counts))
}

fn shard_names(spec: &Spec) -> anyhow::Result<Vec<ShardName>> {
    let data = &spec.data;
    let sets = [
        (Set::Human, &data.human),
        (Set::Web, &data.web),
        (Set::Test, &data.test),
    ];
    let mut names = Vec::new();
    for (set, directory) in sets.into_iter().filter(|(_, directory)| !directory.is_empty()) {
        let files =
            shards::list(&Path::new(&data.root).join(directory)).with_context(|| format!("data.{}", set.name()))?;
        names.extend(files.into_iter().map(|file| ShardName { set, file }));
    }
    Ok(names)
}
