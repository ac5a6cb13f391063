//! The demo, as a user runs it: everything must be there in the end, and add up.

use medley_protocol::ids::JobId;
use medley_protocol::rest::JobDetail;
use medley_protocol::stage::{JobState, StageState};
use medley_tests::programs::{Running, Scratch};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The files of the report, the last one to be written last.
const REPORT: [&str; 4] = ["report.json", "report.md", "contact-sheet.html", "contact-sheet.png"];
const STAGES: [&str; 8] = [
    "index-0",
    "pretrain-0",
    "captioner-0",
    "filter-0",
    "capfilt-0",
    "pretrain-1",
    "evaluate-0",
    "evaluate-1",
];

/// A number of the report, by its path.
fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("{path} is no number in {value}"))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("{name} is no list in {value}"))
}

fn check_stages(report: &Value) {
    let mut names: Vec<&str> = list(report, "stages")
        .iter()
        .filter_map(|stage| stage["name"].as_str())
        .collect();
    let mut expected = STAGES;
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for stage in list(report, "stages") {
        assert!(
            number(stage, "/done") > 0.0 && number(stage, "/seconds") > 0.0,
            "{stage}"
        );
        assert_eq!(number(stage, "/generations"), 1.0, "nothing failed: {stage}");
        assert!((1.0..=4.0).contains(&number(stage, "/ranks")), "{stage}");
        let mebibytes = number(stage, "/peak_rank_bytes") / f64::from(1 << 20);
        assert!(
            (5.0..4096.0).contains(&mebibytes),
            "a rank cannot have needed {mebibytes} MiB: {stage}"
        );
    }
}

fn check_recall(report: &Value) {
    let models = list(report, "models");
    assert_eq!(models.len(), 2, "raw and bootstrapped");
    for model in models {
        for table in [
            "text_to_image_itc",
            "image_to_text_itc",
            "text_to_image_itm",
            "image_to_text_itm",
        ] {
            let at = |k: &str| number(model, &format!("/figures/{table}/at_{k}/value"));
            let rising = [0.0, at("1"), at("5"), at("10"), 1.0];
            assert!(rising.is_sorted(), "{table}: {rising:?}");
            assert!(at("10") > 0.0, "{table}: nothing is found at all");
        }
    }
    assert_eq!(list(report, "differences").len(), 5);
}

fn check_capfilt(report: &Value) {
    let [round] = list(report, "capfilt") else {
        panic!("one round of CapFilt: {report}")
    };
    for source in ["web", "synthetic"] {
        let of = |name: &str| number(round, &format!("/{source}/{name}"));
        assert_eq!(of("texts"), 240.0, "every image of the web set has its text");
        assert_eq!(of("kept") + of("dropped"), of("texts"), "{source}");
        let counts = number(report, &format!("/datasets/0/counts/pairs.{source}"));
        assert_eq!(of("kept"), counts, "the next version holds what was kept: {source}");
    }
    for name in ["texts", "kept"] {
        let kinds = list(&round["web"], "by_noise");
        let sum: f64 = kinds.iter().map(|kind| number(kind, &format!("/{name}"))).sum();
        assert_eq!(sum, number(round, &format!("/web/{name}")), "{name} by kind of noise");
    }
    let pairs = |name: &str| number(report, &format!("/datasets/0/counts/{name}"));
    assert_eq!(
        pairs("pairs"),
        pairs("pairs.human") + pairs("pairs.web") + pairs("pairs.synthetic")
    );
}

/// The sheet has colours of more than paper and marks.
fn check_sheet(path: &Path) {
    let sheet = image::open(path).expect("the contact sheet is an image").into_rgb8();
    assert!(sheet.width() > 500 && sheet.height() > 500, "{:?}", sheet.dimensions());
    let colours: std::collections::BTreeSet<[u8; 3]> = sheet.pixels().map(|pixel| pixel.0).collect();
    assert!(
        colours.len() > 50,
        "the sheet shows no images: it has {} colours",
        colours.len()
    );
}

#[tokio::test]
async fn the_demo_runs_from_nothing_to_a_report_that_adds_up() {
    let scratch = Scratch::new();
    let state_dir = scratch.path("state");
    let folder = state_dir.join("report");
    let mut demo = Running::start(&["demo", "--quick", "--keep-running"], &state_dir);
    let written = async |_: &Running| REPORT.iter().all(|name| folder.join(name).is_file()).then_some(());
    demo.until("the report is written", written).await;

    let report: Value = serde_json::from_slice(&fs::read(folder.join("report.json")).expect("it was written"))
        .expect("the report is JSON");
    check_stages(&report);
    check_recall(&report);
    check_capfilt(&report);
    check_sheet(&folder.join("contact-sheet.png"));
    let page = fs::read_to_string(folder.join("report.md")).expect("it was written");
    assert!(STAGES.iter().all(|stage| page.contains(stage)), "{page}");

    let job: JobId = report["job"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .expect("the report names its job");
    let detail: JobDetail = demo.get(&format!("/jobs/{job}")).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    assert!(detail.stages.iter().all(|stage| stage.state == StageState::Done));
    let events = demo.events(job).await;
    let told: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        told.iter().filter(|kind| **kind == "stage-done").count(),
        STAGES.len(),
        "{told:?}"
    );
    for trouble in ["generation-over", "task-failed", "stage-failed", "job-failed"] {
        assert!(!told.contains(&trouble), "{events:?}");
    }
    assert!(
        demo.interrupt().await.success(),
        "Ctrl-C ends a demo that is done in order"
    );
}
