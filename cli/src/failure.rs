//! How a command says that it failed: in words for people, or as JSON for scripts.

use medley_protocol::error::ProblemBody;
use serde_json::{Value, json};
use std::fmt;

/// A request that was refused, or a spec that would be.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) problem: ProblemBody,
    /// What to do about it, if the reason does not say it.
    pub(crate) advice: Option<&'static str>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.problem)?;
        match self.advice {
            Some(advice) => write!(f, ": {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

/// Says on standard error why a command failed; for scripts as one line of JSON.
pub(crate) fn tell(error: &anyhow::Error, json: bool) {
    if json {
        eprintln!("{}", document(error));
    } else {
        eprintln!("error: {error:#}");
    }
}

/// `error` in words, and what was refused: its `code`, and the wrong fields as `problems`.
fn document(error: &anyhow::Error) -> Value {
    let text = format!("{error:#}");
    let Some(Refusal { problem, .. }) = error.chain().find_map(|cause| cause.downcast_ref::<Refusal>()) else {
        return json!({ "error": text });
    };
    let mut document = json!({ "error": text, "code": problem.code });
    if !problem.problems.is_empty() {
        // They follow one by one, so that their lines are not needed.
        document["error"] = json!(text.lines().next().unwrap_or_default());
        document["problems"] = json!(problem.problems);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::spec::Problems;

    #[test]
    fn scripts_are_told_which_fields_were_refused() {
        let mut problems = Problems::one("seed", "is -1");
        problems.0.extend(Problems::one("name", "is 3").0);
        let refusal = Refusal {
            problem: problems.into(),
            advice: None,
        };
        let error = anyhow::Error::new(refusal).context("job.toml");
        let expected = json!({
            "error": "job.toml: 2 fields are wrong",
            "code": "invalid",
            "problems": [{"path": "seed", "message": "is -1"}, {"path": "name", "message": "is 3"}],
        });
        assert_eq!(document(&error), expected);
        assert_eq!(document(&anyhow::anyhow!("no answer")), json!({"error": "no answer"}));
    }
}
