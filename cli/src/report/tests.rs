//! From a generated corpus and made-up results to the written report, over HTTP.

use super::*;
use crate::fake::{self, Coordinator, moment};
use medley_data::dataset::{Overlay, OverlayEntry, Version, VersionShard};
use medley_data::evaluation::{Details, Ranks, Row};
use medley_data::index::{self, ShardIndex};
use medley_data::random::Key;
use medley_data::synth::{Noise, SynthSpec, Truth, generate, read_truth};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::ids::DatasetId;
use medley_protocol::rest::{DatasetView, JobDetail};
use medley_protocol::stage::{JobState, StageKind, StageState};
use medley_protocol::tasks::{Set, ShardName};
use retrieval::Verdict;
use serde::Serialize;
use std::collections::HashMap;

fn corpus(dir: &Path) -> Vec<Truth> {
    let spec = SynthSpec {
        seed: 7,
        human: 10,
        web: 200,
        test: 40,
        shard: 50,
        other: 0.25,
        half_true: 0.2,
        boilerplate: 0.1,
    };
    generate(&spec, dir, &mut |_, _| {}).unwrap();
    read_truth(dir, "web").unwrap()
}

fn put<T: Serialize>(coordinator: &Coordinator, key: &str, value: &T) -> ObjectRef {
    let bytes = serde_json::to_vec(value).unwrap();
    let size_bytes = bytes.len() as u64;
    coordinator.put_object(key, bytes);
    ObjectRef {
        key: key.into(),
        blake3: String::new(),
        size_bytes,
    }
}

/// A filter that keeps right texts and half of the half-true ones, and a captioner that is right for every other image.
fn overlay(index: &ShardIndex, truth: &HashMap<&str, &Truth>) -> Overlay {
    let entries = index.samples.iter().enumerate().map(|(i, sample)| {
        let truth = truth[sample.key.as_str()];
        let keep = truth.noise == Noise::Right || (truth.noise == Noise::HalfTrue && i % 2 == 0);
        let exact = i % 2 == 0;
        let synthetic = if exact {
            truth.scene
        } else {
            truth.scene.with_one_change(Key::new(i as u64))
        };
        OverlayEntry {
            web_probability: if keep { 0.9 } else { 0.1 },
            more: Box::default(),
            synthetic: synthetic.describe(Key::new(i as u64)),
            synthetic_probability: if exact || i % 4 == 1 { 0.8 } else { 0.2 },
            log_probability: -1.0,
        }
    });
    Overlay {
        entries: entries.collect(),
    }
}

fn details(truth: &[Truth], rank: u32, exact: bool) -> Details {
    let rows = truth.iter().enumerate().map(|(i, truth)| {
        let key = Key::new(i as u64);
        let shown = if exact {
            truth.scene
        } else {
            truth.scene.with_one_change(key)
        };
        let ranks = Ranks { itc: rank, itm: rank };
        Row {
            shard: truth.shard.clone(),
            key: truth.key.clone(),
            image: None,
            text: truth.scene.describe(key),
            caption: shown.describe(key),
            log_probability: -1.0,
            text_to_image: ranks,
            image_to_text: ranks,
        }
    });
    Details { rows: rows.collect() }
}

/// A finished job on the corpus in `dir`; the second model has rank `last_rank` everywhere.
fn finished_job(coordinator: &Coordinator, dir: &Path, web: &[Truth], last_rank: u32) -> JobDetail {
    let mut job = fake::job("demo");
    job.job.state = JobState::Succeeded;
    job.job.finished_at = Some(moment(600));
    job.spec.data.root = dir.to_str().unwrap().into();
    let test = read_truth(dir, "test").unwrap();
    for (number, (rank, exact)) in [(3, false), (last_rank, true)].into_iter().enumerate() {
        let found = details(&test, rank, exact);
        let mut stage = fake::stage(&format!("evaluate-{number}"), StageKind::Evaluate, StageState::Done);
        stage.evaluation = Some(found.figures(100, 1));
        stage.details = Some(put(coordinator, &format!("details/{number}"), &found));
        job.stages.push(stage);
    }
    let by_key: HashMap<&str, &Truth> = web.iter().map(|t| (t.key.as_str(), t)).collect();
    let names = medley_data::shards::list(&dir.join("web")).unwrap();
    let shards = names.into_iter().map(|file| {
        let index = index::build(&dir.join("web").join(&file), &mut |_, _| {}).unwrap();
        VersionShard {
            index: put(coordinator, &format!("index/{file}"), &index),
            overlay: Some(put(coordinator, &format!("overlay/{file}"), &overlay(&index, &by_key))),
            shard: ShardName { set: Set::Web, file },
        }
    });
    let version = Version {
        parent: None,
        threshold: Some(0.5),
        shards: shards.collect(),
    };
    let object = put(coordinator, "dataset/1", &version);
    coordinator.put_dataset(DatasetView {
        id: DatasetId::generate(),
        parent: None,
        stage: job.stages[0].id,
        version: 1,
        vocab: object.clone(),
        object,
        counts: [("pairs".to_owned(), 123)].into(),
        created_at: moment(300),
    });
    coordinator.put_job(&job);
    job
}

async fn report(last_rank: u32, quick: bool) -> (Report, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let web = corpus(dir.path());
    let coordinator = Coordinator::start().await;
    let job = finished_job(&coordinator, dir.path(), &web, last_rank);
    let inputs = gather(&coordinator.client(), job.job.id).await.unwrap();
    let folder = dir.path().join("report");
    let places = Places {
        report: folder.clone(),
        data: dir.path().into(),
        store: dir.path().join("store"),
        logs: dir.path().join("logs"),
    };
    let report = Report::new(&inputs, places, quick).unwrap();
    write(&report, &inputs, &folder).unwrap();
    (report, dir)
}

#[tokio::test]
async fn the_filter_is_scored_against_the_known_noise() {
    let (report, dir) = report(0, false).await;
    let truth = read_truth(dir.path(), "web").unwrap();
    let of = |noise| truth.iter().filter(|t| t.noise == noise).count() as u64;
    let web = &report.capfilt[0].web;
    assert_eq!((web.texts, web.kept + web.dropped), (200, 200));
    assert_eq!(web.recall, 1.0);
    let kept: HashMap<Noise, u64> = web.by_noise.iter().map(|k| (k.noise, k.kept)).collect();
    assert_eq!(
        (kept[&Noise::Right], kept[&Noise::Other], kept[&Noise::Boilerplate]),
        (of(Noise::Right), 0, 0)
    );
    let half_true = kept[&Noise::HalfTrue];
    assert!(0 < half_true && half_true < of(Noise::HalfTrue));
    let precision = of(Noise::Right) as f64 / (of(Noise::Right) + half_true) as f64;
    assert!((web.precision - precision).abs() < 1e-12);
}

#[tokio::test]
async fn synthetic_texts_are_scored_before_and_after_the_filter() {
    let (report, _dir) = report(0, false).await;
    let synthetic = &report.capfilt[0].synthetic;
    assert_eq!(synthetic.before.exact, 0.5);
    assert_eq!(synthetic.before.wrong_attributes, 0.5);
    assert_eq!((synthetic.exact_kept, synthetic.kept), (1.0, 152));
    assert!((synthetic.after.exact - 100.0 / 152.0).abs() < 1e-12);
}

#[tokio::test]
async fn a_better_model_is_called_better_with_its_interval() {
    let (report, dir) = report(0, false).await;
    assert!(
        report
            .differences
            .iter()
            .all(|d| d.verdict == Verdict::Better && d.gain.value == 1.0)
    );
    assert_eq!(
        (report.models[0].captions.exact, report.models[1].captions.exact),
        (0.0, 1.0)
    );
    let page = std::fs::read_to_string(dir.path().join("report/report.md")).unwrap();
    assert!(page.contains("better in every measure"), "{page}");
    assert!(page.contains("+100.0 (+100.0 to +100.0)"), "{page}");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("report/report.json")).unwrap()).unwrap();
    assert_eq!(json["chance"]["at_1"], 0.025);
    assert_eq!(json["capfilt"][0]["web"]["recall"], 1.0);
}

#[tokio::test]
async fn a_model_that_is_not_better_is_not_praised() {
    let (report, dir) = report(3, true).await;
    let verdicts: Vec<Verdict> = report.differences.iter().map(|d| d.verdict).collect();
    use Verdict::{Better, NoClearDifference as Same};
    assert_eq!(verdicts, [Same, Same, Same, Same, Better]);
    let page = std::fs::read_to_string(dir.path().join("report/report.md")).unwrap();
    assert!(
        page.contains("Better in 1 of 5 measures, worse in 0, no clear difference in 4"),
        "{page}"
    );
    assert!(page.contains("This was the quick demo"), "{page}");
}

#[tokio::test]
async fn the_contact_sheet_shows_kept_and_dropped_texts_of_every_kind() {
    let (_report, dir) = report(0, false).await;
    let html = std::fs::read_to_string(dir.path().join("report/contact-sheet.html")).unwrap();
    assert_eq!(html.matches("<article>").count(), 24);
    assert_eq!(html.matches("data:image/jpeg;base64,/9j/").count(), 24);
    for kind in [
        "web text: right",
        "of another image",
        "one attribute wrong",
        "boilerplate",
    ] {
        assert_eq!(html.matches(kind).count(), 6, "{kind}");
    }
    let png = std::fs::read(dir.path().join("report/contact-sheet.png")).unwrap();
    let sheet = image::load_from_memory(&png).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (8 + 6 * 136, 8 + 4 * 146));
    // The first row shows right texts, which were kept: the mark under the first image is green.
    assert_eq!(sheet.get_pixel(20, 8 + 128 + 5).0, [46, 158, 91]);
}
