//! From a submitted document to a completed [`Spec`]: overlay on the preset, typed reading, checks.

use super::fields::{MAX_PROBLEMS, odd_texts, unknown};
use super::names::MAX_NAME;
use super::read::read;
use super::{Kind, PRESETS, Preset, Spec, follow, validate};
use crate::text::plain;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// One thing wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Path of the field, such as `pretrain.peak_lr`; empty for the whole document.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// All that is wrong with a spec; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// A single problem.
    pub fn one(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![Problem {
            path: path.into(),
            message: message.into(),
        }])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Sections that only a bootstrap job reads.
const BOOTSTRAP_ONLY: [&str; 5] = ["rounds", "captioner", "filter", "capfilt", "evaluate"];
/// Fields that no preset can know.
const REQUIRED: [(&str, &str); 3] = [
    ("name", "give the job a name"),
    ("kind", "say what the job does: \"pretrain\" or \"bootstrap\""),
    ("preset", "name the preset to start from: nano, tiny, vit-b or vit-l"),
];

pub(super) fn complete(document: &Value) -> Result<Spec, Problems> {
    let Value::Object(fields) = document else {
        return Err(Problems::one("", "the spec must be a table of fields"));
    };
    let mut problems = missing(fields);
    let preset = preset_of(fields, &mut problems);
    // Every preset has the same fields: without one, names and types can be told all the same.
    let base = preset.unwrap_or(Preset::Nano).document();
    unknown("", document, &base, &mut problems);
    contradicting_kind(fields, &mut problems);
    odd_texts("", document, &mut problems);
    let mut spec = match read(overlay(base.clone(), document), &base, &mut problems) {
        Ok(spec) => spec,
        Err(problem) => {
            problems.push(problem);
            return Err(Problems(problems));
        }
    };
    follow::follow(&mut spec, document);
    let is_known = |field: &str| !problems.iter().any(|problem| problem.path == field);
    if is_known("preset") && is_known("kind") {
        problems = validate::more(&spec, problems);
    }
    problems.truncate(MAX_PROBLEMS);
    if problems.is_empty() {
        Ok(spec)
    } else {
        Err(Problems(problems))
    }
}

fn missing(fields: &Map<String, Value>) -> Vec<Problem> {
    let absent = REQUIRED.iter().filter(|(field, _)| !fields.contains_key(*field));
    let mut problems: Vec<Problem> = absent
        .map(|(field, hint)| Problem {
            path: (*field).into(),
            message: format!("missing: {hint}"),
        })
        .collect();
    let data = fields.get("data");
    if data.is_none_or(|data| data.is_object() && data.get("root").is_none()) {
        problems.push(Problem {
            path: "data.root".into(),
            message: "missing: give the directory that holds the data sets, readable by every node".into(),
        });
    }
    problems
}

fn preset_of(fields: &Map<String, Value>, problems: &mut Vec<Problem>) -> Option<Preset> {
    let given = fields.get("preset")?;
    let preset = serde_json::from_value(given.clone()).ok();
    if preset.is_none() {
        let known: Vec<&str> = PRESETS.iter().map(|p| p.name()).collect();
        problems.push(Problem {
            path: "preset".into(),
            message: format!(
                "unknown preset {}: use one of {}",
                plain(&given.to_string(), MAX_NAME),
                known.join(", ")
            ),
        });
    }
    preset
}

fn contradicting_kind(fields: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let kind = fields
        .get("kind")
        .and_then(|k| serde_json::from_value::<Kind>(k.clone()).ok());
    if kind != Some(Kind::Pretrain) {
        return;
    }
    for section in BOOTSTRAP_ONLY.iter().filter(|s| fields.contains_key(**s)) {
        problems.push(Problem {
            path: (*section).into(),
            message: "only a bootstrap job reads this: remove it, or set kind = \"bootstrap\"".into(),
        });
    }
}

/// Lays `top` over `base`: tables are merged, except tagged choices; everything else is replaced. What `base` does not know is
/// left out.
fn overlay(base: Value, top: &Value) -> Value {
    match (base, top) {
        (Value::Object(mut base), Value::Object(top)) if !base.contains_key("by") => {
            for (name, value) in top {
                if let Some(inner) = base.get_mut(name) {
                    *inner = overlay(inner.take(), value);
                }
            }
            Value::Object(base)
        }
        (_, top) => top.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn minimal() -> Value {
        json!({"name": "j", "kind": "bootstrap", "preset": "tiny", "data": {"root": "/d"}})
    }

    fn paths(document: &Value) -> Vec<String> {
        complete(document).unwrap_err().0.into_iter().map(|p| p.path).collect()
    }

    #[test]
    fn every_preset_completes_a_minimal_document() {
        for preset in PRESETS {
            let mut document = minimal();
            document["preset"] = json!(preset.name());
            assert_eq!(complete(&document).unwrap().preset, *preset);
        }
    }

    #[test]
    fn the_papers_presets_fine_tune_by_the_references_recipes() {
        use crate::spec::{AugmentSpec, Behaviour, Negatives, SameImage};
        for preset in ["vit-b", "vit-l"] {
            let mut document = minimal();
            document["preset"] = json!(preset);
            let spec = complete(&document).unwrap();
            assert_eq!((spec.captioner.image_size, spec.filter.image_size), (384, 384));
            assert_eq!(spec.captioner.prompt, "a picture of ");
            let longest = [&spec.pretrain, &spec.captioner, &spec.filter].map(|train| spec.max_tokens(train));
            assert_eq!(longest, [30, 40, 35]);
            let filter = (
                spec.filter.same_image,
                spec.filter.negatives,
                spec.filter.alpha_ramp_epochs,
            );
            assert_eq!(filter, (SameImage::Positive, Negatives::All, 1.0));
            assert_eq!(
                (spec.pretrain.same_image, spec.pretrain.negatives),
                (SameImage::Negative, Negatives::Lane)
            );
            for train in [&spec.pretrain, &spec.captioner, &spec.filter] {
                assert_eq!(
                    (train.teacher_temperature, train.momentum, train.alpha),
                    (0.0, 0.995, 0.4)
                );
                let AugmentSpec::Reference {
                    auto_contrast,
                    enhance,
                    flip,
                    translate,
                    ..
                } = train.augment
                else {
                    panic!("{:?}", train.augment);
                };
                assert_eq!([auto_contrast, enhance, flip, translate], [Behaviour::Reference; 4]);
            }
        }
    }

    #[test]
    fn a_completed_spec_survives_json() {
        let spec = complete(&minimal()).unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    }

    #[test]
    fn a_spec_from_before_stages_had_limits_of_text_keeps_its_own() {
        let mut stored = serde_json::to_value(complete(&minimal()).unwrap()).unwrap();
        stored["model"]["text"]["max_tokens"] = json!(17);
        for stage in ["pretrain", "captioner", "filter"] {
            stored[stage].as_object_mut().unwrap().remove("max_tokens");
        }
        let spec: Spec = serde_json::from_value(stored).unwrap();
        // As it is handed on to ranks.
        let spec: Spec = serde_json::from_value(serde_json::to_value(spec).unwrap()).unwrap();
        for stage in [&spec.pretrain, &spec.captioner, &spec.filter] {
            assert_eq!(spec.max_tokens(stage), 17);
        }
    }

    #[test]
    fn a_stage_computes_activations_again_only_if_its_section_says_so() {
        let mut document = minimal();
        document["captioner"] = json!({"recompute": true});
        let mut stored = serde_json::to_value(complete(&document).unwrap()).unwrap();
        stored["filter"].as_object_mut().unwrap().remove("recompute");
        let spec: Spec = serde_json::from_value(stored).unwrap();
        let stages = [&spec.pretrain, &spec.captioner, &spec.filter];
        assert_eq!(stages.map(|stage| stage.recompute), [false, true, false]);
    }

    #[test]
    fn missing_fields_are_named_all_at_once() {
        assert_eq!(paths(&json!({})), ["name", "kind", "preset", "data.root"]);
    }

    #[test]
    fn without_a_preset_names_and_types_are_told_all_the_same() {
        let mut document = minimal();
        document["preset"] = json!("huge");
        document["pretrain"] = json!({"lr": 1e-4, "peak_lr": -1.0, "seed": 1});
        document["lanes"] = json!({"count": "four"});
        assert_eq!(
            paths(&document),
            ["preset", "pretrain.lr", "pretrain.seed", "lanes.count"]
        );
    }

    #[test]
    fn unknown_preset_lists_the_known_ones() {
        let mut document = minimal();
        document["preset"] = json!("huge");
        assert!(complete(&document).unwrap_err().to_string().contains("vit-b"));
    }

    #[test]
    fn a_pretrain_job_refuses_sections_of_the_bootstrap() {
        let mut document = minimal();
        document["kind"] = json!("pretrain");
        document["capfilt"] = json!({"top_p": 0.5});
        assert_eq!(paths(&document), ["capfilt"]);
    }

    #[test]
    fn a_wrong_type_is_reported_with_its_path() {
        let mut document = minimal();
        document["lanes"] = json!({"count": "four"});
        assert_eq!(paths(&document), ["lanes.count"]);
    }

    #[test]
    fn a_tagged_choice_replaces_the_presets() {
        let mut document = minimal();
        document["pretrain"] = json!({"decay": {"by": "epoch", "factor": 0.85}});
        let spec = complete(&document).unwrap();
        assert_eq!(spec.pretrain.decay, crate::spec::Decay::Epoch { factor: 0.85 });
    }
}
