//! What the demo generates and submits.

use medley_data::synth::SynthSpec;
use serde_json::{Value, json};
use std::path::Path;

/// The corpus: the noise of web texts is 25 % another image's, 20 % half-true, 10 % boilerplate.
pub(super) fn corpus(quick: bool) -> SynthSpec {
    let (human, web, test, shard) = if quick {
        (160, 240, 60, 40)
    } else {
        (1500, 5000, 500, 250)
    };
    SynthSpec {
        seed: 42,
        human,
        web,
        test,
        shard,
        other: 0.25,
        half_true: 0.2,
        boilerplate: 0.1,
    }
}

/// The job: one round of the whole recipe with the preset made for this corpus; `quick` only shortens it.
pub(super) fn document(data: &Path, quick: bool) -> Value {
    let mut document = json!({
        "name": if quick { "demo-quick" } else { "demo" },
        "kind": "bootstrap",
        "preset": "tiny",
        "data": { "root": data.display().to_string() },
    });
    if quick {
        let short =
            |steps: u64, warmup: u64| json!({ "length": { "by": "steps", "count": steps }, "warmup_steps": warmup });
        document["pretrain"] = short(30, 3);
        document["captioner"] = short(12, 2);
        document["filter"] = short(12, 2);
        document["checkpoint"] = json!({ "every_steps": 10 });
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::spec::{Length, Spec};

    #[test]
    fn both_jobs_are_valid_and_the_quick_one_is_short() {
        for (quick, steps) in [(false, 2000), (true, 30)] {
            let spec = Spec::from_document(&document(Path::new("/data"), quick)).unwrap();
            assert_eq!(spec.pretrain.length, Length::Steps { count: steps });
        }
    }

    #[test]
    fn the_quick_corpus_fills_a_step_and_an_evaluation() {
        let spec = Spec::from_document(&document(Path::new("/data"), true)).unwrap();
        let corpus = corpus(true);
        assert!(u64::from(corpus.human) >= spec.global_batch());
        assert!(corpus.test > spec.evaluate.rerank && corpus.test <= 1280);
    }
}
