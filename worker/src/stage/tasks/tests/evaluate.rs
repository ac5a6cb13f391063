//! Ranks of an evaluation, against scores of every pair by itself.

use super::world::{TEST, World, evaluation_of};
use crate::rank::failure::Failure;
use crate::stage::tasks::{Desk, Given};
use medley_data::evaluation::{Details, Row, rank_of};
use medley_data::{decode, shards};
use medley_model::device::Device;
use medley_model::generate::Reader;
use medley_model::ops::sum::dot;
use medley_protocol::agent::StageInputs;
use medley_protocol::tasks::{Set, TaskWork};
use serde_json::json;

#[test]
fn ranks_are_those_of_scoring_every_pair_by_itself() {
    const TEXTS: u32 = TEST + 5;
    let world = World::with(&json!({"evaluate": {"rerank": TEXTS, "batch": 4, "resamples": 50}}));
    world.describe_again(Set::Test);
    let (mut inputs, _) = world.version_0().unwrap();
    inputs.start = Some(world.checkpoint(&inputs, 32, 3));
    let mut told = (0, 0);
    let given = Given {
        spec: &world.spec,
        inputs: &inputs,
        objects: &world.objects,
        device: &Device::Cpu,
    };
    let output = Desk::new(given).perform(&TaskWork::Evaluate, &mut |done, total| told = (done, total));
    let (details, figures) = evaluation_of(output.unwrap());
    assert_eq!(told, (2 * u64::from(TEST), 2 * u64::from(TEST)));
    let rows = world.read::<Details>(&details).rows;
    assert_eq!((rows.len(), figures.pairs), (TEXTS as usize, u64::from(TEXTS)));
    let (itc, itm) = all_scores(&world, &inputs, &rows);
    // The first row of each image.
    let images: Vec<usize> = (0..rows.len())
        .filter(|i| *i == 0 || rows[*i].image != rows[i - 1].image)
        .collect();
    assert_eq!(images.len(), TEST as usize);
    for (i, row) in rows.iter().enumerate() {
        let own = images.iter().position(|image| rows[*image].image == row.image).unwrap();
        assert_eq!(row.caption, rows[images[own]].caption);
        let of_text =
            |scores: &[Vec<f32>]| rank_of(own, &images.iter().map(|image| scores[*image][i]).collect::<Vec<_>>());
        assert_eq!(row.image_to_text.itc, rank_of(i, &itc[i]));
        assert_eq!(row.image_to_text.itm, rank_of(i, &itm[i]));
        assert_eq!(row.text_to_image.itc, of_text(&itc));
        assert_eq!(row.text_to_image.itm, of_text(&itm));
    }
    let first = rows.iter().filter(|row| row.text_to_image.itc == 0).count() as f64;
    assert!((figures.text_to_image_itc.at_1.value - first / f64::from(TEXTS)).abs() < 1e-12);
}

/// Cosine, and score of the matching head, of every (image, text), one pair at a time.
fn all_scores(world: &World, inputs: &StageInputs, rows: &[Row]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let (blip, state) = world.model(inputs, 32, 3);
    let (tokenizer, mut reader) = (world.tokenizer(inputs), Reader::new(blip, state.params, &Device::Cpu));
    let (mut itc, mut itm) = (Vec::new(), Vec::new());
    for image in rows {
        let pixels = pixels_of(world, image);
        let image = reader.image_features(&pixels, 1).unwrap();
        let mut of_text = |row: &Row| {
            let text = [tokenizer.encode(&row.text, 20)];
            let cosine = dot(&image, &reader.text_features(&text).unwrap());
            let logits = reader.match_logits(&pixels, 1, &text, &[(0, 0)]).unwrap();
            (cosine, logits[0][1] + cosine)
        };
        let (cosines, scores) = rows.iter().map(&mut of_text).unzip();
        itc.push(cosines);
        itm.push(scores);
    }
    (itc, itm)
}

fn pixels_of(world: &World, row: &Row) -> Vec<f32> {
    let path = world.set_dir(Set::Test).join(&row.shard);
    let found = shards::members(&path).unwrap().members;
    let image = found.iter().find(|m| m.key == row.key && m.extension == "jpg").unwrap();
    let bytes = shards::read(&std::fs::File::open(path).unwrap(), image.extent).unwrap();
    let mut pixels = vec![0.0; 3 * 32 * 32];
    decode::normalise(&decode::jpeg(&bytes).unwrap(), &mut pixels);
    pixels
}

#[test]
fn a_stage_without_its_checkpoint_says_which() {
    let world = World::new();
    let (inputs, _) = world.version_0().unwrap();
    let failure = world.perform(&inputs, &TaskWork::Evaluate).unwrap_err();
    assert_eq!(
        failure,
        Failure::lasting("the assignment names no checkpoint to evaluate")
    );
}
