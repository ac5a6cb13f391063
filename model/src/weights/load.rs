//! Starting a model from files of weights.
//!
//! Fresh weights come first, the files are laid over them in order. Within a file, two names of one entry must agree.
//! Every tensor is accounted for in the [`Report`]: taken, not taken and why; and every entry that no file gave.

use super::error::Error;
use super::fit::{self, Fit};
use super::names::{Axes, Family, Meaning, Part, Target, meaning};
use super::report::{FileReport, Initialised, Matched, Report, Unused};
use super::source::{Place, Source, Stored};
use crate::blip::Blip;
use crate::flat::Flat;
use crate::layout::ParamId;
use crate::state::State;
use std::collections::HashMap;
use std::path::Path;

/// What a model starts from when files give its weights.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a, P> {
    /// Files, or directories of `transformers`, each laid over the ones before.
    pub files: &'a [P],
    /// Seed of what no file gives.
    pub seed: u64,
    /// Momentum of the momentum encoders, for the update that a reference checkpoint has pending.
    pub momentum: f64,
}

impl<P: AsRef<Path>> Start<'_, P> {
    /// The state at step 0.
    ///
    /// The reference clamps the temperature and averages the momentum encoders at the beginning of the next step, Medley at
    /// the end of this one: what a file has pending is done here.
    ///
    /// # Errors
    /// [`Error`] naming file and tensor: unreadable, of the wrong shape, contradicting its tied twin; or nothing fits.
    pub fn load(self, blip: &Blip) -> Result<(State, Report), Error> {
        let mut loading = Loading::new(blip, State::fresh(blip, self.seed));
        loading.lay_all(self.files)?;
        Ok(loading.finish(self.momentum))
    }

    /// The parameters alone, for inference: momentum encoders and queues are not read, and what no file gives is zero.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_params(self, blip: &Blip) -> Result<(Flat, Report), Error> {
        // Pages of zeros that are never written cost neither time nor memory.
        let mut loading = Loading::new(blip, State::zeros(blip));
        loading.only_params = true;
        loading.lay_all(self.files)?;
        loading.note_initialised();
        Ok((loading.state.params, loading.report))
    }
}

/// An entry, or a third of one.
type Slot = (ParamId, Option<usize>);

struct Loading<'a> {
    blip: &'a Blip,
    state: State,
    /// How many elements files gave, by slot; of the momentum encoders under `true`.
    given: HashMap<(bool, Slot), usize>,
    /// Whether momentum encoders and queues are left out.
    only_params: bool,
    report: Report,
}

impl<'a> Loading<'a> {
    fn new(blip: &'a Blip, state: State) -> Self {
        Self {
            blip,
            state,
            given: HashMap::new(),
            only_params: false,
            report: Report::default(),
        }
    }

    fn lay_all(&mut self, files: &[impl AsRef<Path>]) -> Result<(), Error> {
        files
            .iter()
            .try_for_each(|file| self.lay(&mut Source::open(file.as_ref())?))
    }

    fn lay(&mut self, source: &mut Source) -> Result<(), Error> {
        let names = source.tensors().iter().map(|tensor| tensor.name.as_str());
        let Some(family) = Family::of(names.clone()) else {
            let some: Vec<&str> = names.take(3).collect();
            let cause = format!("its tensors ({} …) are of no model that is known here", some.join(", "));
            return Err(Error::file(source.path(), cause));
        };
        let answers = answers_questions(names);
        let mut file = File {
            taken: HashMap::new(),
            report: FileReport {
                path: source.path().to_owned(),
                format: source.format(),
                family,
                matched: Vec::new(),
                unused: Vec::new(),
            },
        };
        for index in 0..source.tensors().len() {
            let tensor = source.tensors()[index].clone();
            let outcome = match meaning(family, &tensor.name) {
                Meaning::Unused(reason) => Err(reason.to_owned()),
                Meaning::Values(axes, targets) => {
                    let wanted = self.wanted(targets, answers);
                    match wanted {
                        Ok(targets) => self.take(source, (index, &tensor), axes, targets, &mut file)?,
                        Err(reason) => Err(reason),
                    }
                }
            };
            match outcome {
                Ok(matched) => file.report.matched.push(matched),
                Err(reason) => file.report.unused.push(Unused {
                    tensor: tensor.name,
                    reason,
                }),
            }
        }
        if file.report.matched.is_empty() {
            return Err(Error::file(
                source.path(),
                format!("{family}: no tensor in it is part of this model"),
            ));
        }
        self.report.files.push(file.report);
        Ok(())
    }

    /// The targets that this model has, or why it wants none.
    fn wanted(&self, targets: Vec<Target>, answers_questions: bool) -> Result<Vec<Target>, String> {
        let has = |target: &Target| match target.part {
            Part::Student => self.blip.student_layout.find(&target.name).is_some(),
            _ if self.only_params => false,
            Part::Momentum => self.blip.momentum_layout.find(&target.name).is_some(),
            Part::ImageQueue | Part::TextQueue | Part::QueueNext => true,
        };
        let wanted: Vec<Target> = targets.into_iter().filter(has).collect();
        if wanted.is_empty() {
            return Err("no part of the model".into());
        }
        let own_decoder = |target: &Target| {
            let layout = &self.blip.student_layout;
            let entry = layout.find(&target.name).map(|id| layout.entry(id));
            target.name.starts_with("text_decoder.")
                && entry.is_some_and(|entry| entry.name.starts_with("text_encoder."))
        };
        if answers_questions && wanted.iter().all(own_decoder) {
            return Err(
                "the model shares this with its text encoder; a question answerer's decoder has its own".into(),
            );
        }
        Ok(wanted)
    }

    /// Reads a tensor into its targets.
    fn take(
        &mut self,
        source: &mut Source,
        (index, tensor): (usize, &Stored),
        axes: Axes,
        targets: Vec<Target>,
        file: &mut File,
    ) -> Result<Result<Matched, String>, Error> {
        let path = source.path().to_owned();
        let fault = |cause: String| Error::tensor(&path, &tensor.name, cause);
        if let Place::Nowhere(why) = &tensor.place {
            return Err(fault(why.clone()));
        }
        let Some(first) = targets.first() else {
            return Ok(Err("no part of the model".into()));
        };
        if matches!(first.part, Part::ImageQueue | Part::TextQueue | Part::QueueNext) {
            return self.take_queue(source, (index, tensor), first.part);
        }
        let shape = fit::arranged(axes, &tensor.shape)
            .ok_or_else(|| fault(format!("has {} axes, too few or too many", tensor.shape.len())))?;
        let mut fits = Vec::new();
        for target in &targets {
            let to = self.shape_of(target);
            fits.push(fit::fit(&target.name, &shape, &to, &self.blip.vocab).map_err(fault)?);
        }
        let values = fit::arrange(axes, &tensor.shape, source.read(index)?);
        for (target, fit) in targets.iter().zip(&fits) {
            self.put(target, *fit, &values, tensor, file).map_err(fault)?;
        }
        Ok(Ok(Matched {
            tensor: tensor.name.clone(),
            entries: targets.iter().map(named).collect(),
            note: note(fits[0], tensor),
        }))
    }

    /// Puts arranged values into one target. If the file named it before, they must be the same.
    fn put(
        &mut self,
        target: &Target,
        fit: Fit,
        values: &[f32],
        tensor: &Stored,
        file: &mut File,
    ) -> Result<(), String> {
        let width = self.shape_of(target).last().copied().unwrap_or(1);
        let momentum = target.part == Part::Momentum;
        let (layout, flat) = if momentum {
            (&self.blip.momentum_layout, &mut self.state.ema)
        } else {
            (&self.blip.student_layout, &mut self.state.params)
        };
        let id = layout.id(&target.name);
        let range = third_of(layout.entry(id).range(), target.third);
        let slot = (momentum, (id, target.third));
        let entry = &mut flat[range];
        if let Some(other) = file.taken.get(&slot) {
            let before = entry.to_vec();
            fit::fill(fit, values, width, entry);
            if entry.iter().zip(&before).any(|(now, before)| now != before) {
                return Err(format!("differs from {other}: the model has one tensor for both"));
            }
            return Ok(());
        }
        fit::fill(fit, values, width, entry);
        file.taken.insert(slot, tensor.name.clone());
        let given = match fit {
            Fit::Whole | Fit::Rows(_) => values.len(),
            Fit::Resampled { .. } => entry.len(),
        };
        let most = self.given.entry(slot).or_insert(0);
        *most = given.max(*most);
        Ok(())
    }

    fn shape_of(&self, target: &Target) -> Vec<usize> {
        let layout = match target.part {
            Part::Momentum => &self.blip.momentum_layout,
            _ => &self.blip.student_layout,
        };
        let mut shape = layout.entry(layout.id(&target.name)).shape.clone();
        if target.third.is_some() {
            shape[0] /= 3;
        }
        shape
    }

    /// A feature queue, e × length in the file and length × e here, or the position in both.
    fn take_queue(
        &mut self,
        source: &mut Source,
        (index, tensor): (usize, &Stored),
        part: Part,
    ) -> Result<Result<Matched, String>, Error> {
        let (width, length) = (self.blip.model.embed_dim as usize, self.blip.model.queue as usize);
        let wrong = if part == Part::QueueNext {
            tensor.elements() != Some(1)
        } else {
            tensor.shape != [width, length]
        };
        if wrong {
            let shape = &tensor.shape;
            return Ok(Err(format!(
                "has the shape {shape:?}, the spec's queue is {width} × {length}: it starts random"
            )));
        }
        let values = source.read(index)?;
        match part {
            Part::ImageQueue => self
                .state
                .image_queue
                .copy_from_slice(&fit::transpose(&values, width, length)),
            Part::TextQueue => self
                .state
                .text_queue
                .copy_from_slice(&fit::transpose(&values, width, length)),
            _ => self.state.queue_next = values[0].max(0.0) as u64 % length as u64,
        }
        Ok(Ok(Matched {
            tensor: tensor.name.clone(),
            entries: vec![tensor.name.clone()],
            note: String::new(),
        }))
    }

    fn note_initialised(&mut self) {
        let layout = &self.blip.student_layout;
        for (id, entry) in layout.iter() {
            let rows = entry.shape.first().copied().unwrap_or(1).max(1);
            let given = given(&self.given, false, id) / (entry.len / rows);
            if given < rows {
                self.report.initialised.push(Initialised {
                    entry: entry.name.clone(),
                    rows: rows - given,
                    of_rows: rows,
                });
            }
        }
    }

    fn finish(mut self, momentum: f64) -> (State, Report) {
        self.note_initialised();
        let layout = &self.blip.student_layout;
        let averaged = self.given.keys().any(|(momentum, _)| *momentum);
        for (id, entry) in self.blip.momentum_layout.iter() {
            if given(&self.given, true, id) == 0 {
                let from = layout.entry(layout.id(&entry.name)).range();
                self.state.ema[entry.range()].copy_from_slice(&self.state.params[from]);
            }
        }
        let before = self.state.temperature(self.blip);
        self.state.clamp_temperature(self.blip);
        let after = self.state.temperature(self.blip);
        if before != after {
            self.report
                .notes
                .push(format!("temp: the pending clamp made {before} to {after}"));
        }
        self.report.notes.push(if averaged {
            self.state.average(self.blip, momentum);
            "momentum encoder: taken, and its pending update done".into()
        } else {
            "momentum encoder: a copy of the trained model".into()
        });
        (self.state, self.report)
    }
}

/// What a file gave so far.
struct File {
    /// The tensor that gave each slot.
    taken: HashMap<(bool, Slot), String>,
    report: FileReport,
}

/// Elements of an entry that files gave.
fn given(all: &HashMap<(bool, Slot), usize>, momentum: bool, id: ParamId) -> usize {
    let of = |third| all.get(&(momentum, (id, third))).copied().unwrap_or(0);
    of(None).max([0, 1, 2].into_iter().map(|third| of(Some(third))).sum())
}

/// A question answerer has text encoder and decoder, and neither projections nor a matching head.
fn answers_questions<'a>(names: impl Iterator<Item = &'a str> + Clone) -> bool {
    let has = |prefix: &str| {
        names
            .clone()
            .any(|name| name.trim_start_matches("module.").starts_with(prefix))
    };
    has("text_encoder.") && has("text_decoder.") && !has("itm_head.") && !has("text_proj.")
}

fn third_of(range: std::ops::Range<usize>, third: Option<usize>) -> std::ops::Range<usize> {
    let Some(third) = third else { return range };
    let len = range.len() / 3;
    range.start + third * len..range.start + (third + 1) * len
}

fn named(target: &Target) -> String {
    let momentum = if target.part == Part::Momentum { "momentum " } else { "" };
    let third = target.third.map_or("", |third| ["[query]", "[key]", "[value]"][third]);
    format!("{momentum}{}{third}", target.name)
}

fn note(fit: Fit, tensor: &Stored) -> String {
    match fit {
        Fit::Whole => String::new(),
        Fit::Resampled { from, to } => format!("resampled from {from} × {from} patches to {to} × {to}"),
        Fit::Rows(rows) => format!("{rows} rows of shape {:?}, [DEC] and [ENC] are added", tensor.shape),
    }
}
