//! Beam search, as the reference's library does it (transformers 4.15), without a model: scores in, beams out.
//!
//! Each step ranks the continuations of all open beams together. Of the best 2n, those that end the text and are among the
//! first n become finished texts; the first n others are the next beams. The n best finished texts are kept by score: the sum of
//! log-probabilities divided by a power of the length.

use super::nucleus::{likeliest, log_softmax, penalise};

/// How beams are searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beam {
    /// Beams of an image.
    pub beams: usize,
    /// Power of the length that a score is divided by.
    pub length_penalty: f32,
    /// Divides (multiplies, when negative) the log-probabilities of tokens already present.
    pub repetition_penalty: f32,
    /// What counts as length.
    pub length: Length,
}

/// What counts as the length of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// All tokens, `[DEC]` and prompt included, without the last `[SEP]`: the reference's version of the library.
    Whole,
    /// Tokens after `[DEC]` and prompt, with the last `[SEP]`: later versions (4.36 to 4.49).
    Generated,
}

/// A text of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// All its tokens, `[DEC]` and prompt included, without `[SEP]`.
    pub tokens: Vec<u32>,
    /// Sum of log-probabilities after penalty: what beams are ranked by.
    sum: f32,
    /// Sum of the model's log-probabilities, `[SEP]` included.
    pub log_probability: f32,
}

impl Hypothesis {
    /// As whoever ranks its continuations sees it.
    pub(crate) fn as_open(&self) -> Open<'_> {
        Open {
            tokens: &self.tokens,
            sum: self.sum,
        }
    }
}

/// The search for one image's captions.
#[derive(Debug)]
pub struct Beams {
    settings: Beam,
    sep: u32,
    start: usize,
    open: Vec<Hypothesis>,
    finished: Vec<(f64, Hypothesis)>,
    done: bool,
}

/// An open text, as whoever ranks its continuations sees it.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    /// All its tokens.
    pub tokens: &'a [u32],
    /// What it is ranked by.
    pub sum: f32,
}

/// One more token for an open text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Continuation {
    /// The token.
    pub token: u32,
    /// What the longer text is ranked by.
    pub sum: f32,
    /// The model's log-probability of the token.
    pub log_probability: f32,
}

/// Which continuations of a text are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// At most so many: the best, best first, equal ones by token.
    pub most: usize,
    /// See [`Beam::repetition_penalty`].
    pub repetition_penalty: f32,
    /// A token that may not come.
    pub banned: Option<u32>,
}

impl Wanted {
    /// The continuations of each text, by the logits of their next tokens.
    pub fn of_all(&self, logits: &[f32], open: &[Open]) -> Vec<Vec<Continuation>> {
        let rows = logits.chunks_exact(logits.len() / open.len().max(1));
        let all = open.iter().zip(rows);
        all.map(|(text, row)| self.of(text, &log_softmax(row))).collect()
    }

    /// The continuations of a text, by the log-probabilities of its next token.
    fn of(&self, text: &Open, log_probabilities: &[f32]) -> Vec<Continuation> {
        let mut scores = log_probabilities.to_vec();
        penalise(&mut scores, text.tokens, self.repetition_penalty);
        if let Some(token) = self.banned {
            scores[token as usize] = f32::NEG_INFINITY;
        }
        scores.iter_mut().for_each(|score| *score += text.sum);
        let continuation = |token: u32| Continuation {
            token,
            sum: scores[token as usize],
            log_probability: log_probabilities[token as usize],
        };
        likeliest(&scores, self.most).into_iter().map(continuation).collect()
    }
}

impl Beams {
    /// One open text: `[DEC]` and the prompt.
    pub fn new(settings: Beam, start: &[u32], sep: u32) -> Self {
        let begin = Hypothesis {
            tokens: start.to_vec(),
            sum: 0.0,
            log_probability: 0.0,
        };
        Self {
            settings,
            sep,
            start: start.len(),
            open: vec![begin],
            finished: Vec::new(),
            done: false,
        }
    }

    /// Texts that go on; none when the search is over.
    pub fn open(&self) -> &[Hypothesis] {
        if self.done { &[] } else { &self.open }
    }

    /// Which continuations of the open texts are looked at; `[SEP]` may come only if `may_end`.
    pub(crate) fn wanted(settings: &Beam, sep: u32, may_end: bool) -> Wanted {
        Wanted {
            most: 2 * settings.beams,
            repetition_penalty: settings.repetition_penalty,
            banned: (!may_end).then_some(sep),
        }
    }

    /// Takes the log-probabilities of the next token of each open text, and goes on with its best continuations. Returns
    /// which text each of the new ones continues. `[SEP]` may come only if `may_end`.
    pub fn advance(&mut self, log_probabilities: &[&[f32]], may_end: bool) -> Vec<usize> {
        let wanted = Self::wanted(&self.settings, self.sep, may_end);
        let rows = self.open.iter().zip(log_probabilities);
        let found: Vec<_> = rows.map(|(text, row)| wanted.of(&text.as_open(), row)).collect();
        self.advance_by(&found)
    }

    /// As [`advance`](Self::advance), by the best continuations of each open text.
    pub(crate) fn advance_by(&mut self, of_each: &[Vec<Continuation>]) -> Vec<usize> {
        let n = self.settings.beams;
        let with_beam = |(beam, of_beam): (usize, &Vec<Continuation>)| {
            of_beam.iter().map(move |one| (beam, *one)).collect::<Vec<_>>()
        };
        let mut candidates: Vec<(usize, Continuation)> = of_each.iter().enumerate().flat_map(with_beam).collect();
        candidates.sort_by(|(_, a), (_, b)| b.sum.total_cmp(&a.sum));
        candidates.truncate(2 * n);
        let best = candidates
            .first()
            .map_or(f32::NEG_INFINITY, |(_, candidate)| candidate.sum);
        let length = self.open[0].tokens.len();
        let mut next = Vec::with_capacity(n);
        let mut parents = Vec::with_capacity(n);
        for (rank, (beam, candidate)) in candidates.into_iter().enumerate() {
            let parent = &self.open[beam];
            let mut text = Hypothesis {
                tokens: parent.tokens.clone(),
                sum: candidate.sum,
                log_probability: parent.log_probability + candidate.log_probability,
            };
            if candidate.token == self.sep {
                if rank < n {
                    self.finish(text, true);
                }
                continue;
            }
            text.tokens.push(candidate.token);
            next.push(text);
            parents.push(beam);
            if next.len() == n {
                break;
            }
        }
        self.open = next;
        self.done = self.open.is_empty() || self.is_over(best, length);
        if self.done { Vec::new() } else { parents }
    }

    /// Whether no open text can beat the finished ones, by the library's estimate: the best continuation at its length now.
    fn is_over(&self, best: f32, length: usize) -> bool {
        let length = match self.settings.length {
            Length::Whole => length,
            Length::Generated => length + 1 - self.start,
        };
        let worst = self
            .finished
            .iter()
            .map(|(score, _)| *score)
            .fold(f64::INFINITY, f64::min);
        self.finished.len() >= self.settings.beams && worst >= self.score(best, length)
    }

    fn score(&self, sum: f32, length: usize) -> f64 {
        f64::from(sum) / libm::pow(length as f64, f64::from(self.settings.length_penalty))
    }

    /// Keeps a text if it is among the n best.
    fn finish(&mut self, text: Hypothesis, ended: bool) {
        let length = match self.settings.length {
            Length::Whole => text.tokens.len(),
            Length::Generated => text.tokens.len() + usize::from(ended) - self.start,
        };
        let score = self.score(text.sum, length);
        self.finished.push((score, text));
        if self.finished.len() > self.settings.beams {
            let lowest = (0..self.finished.len()).min_by(|&a, &b| self.finished[a].0.total_cmp(&self.finished[b].0));
            lowest.map(|lowest| self.finished.remove(lowest));
        }
    }

    /// The `count` best texts, best first. Open ones count as they are.
    pub fn best(mut self, count: usize) -> Vec<Hypothesis> {
        if !self.done {
            for text in std::mem::take(&mut self.open) {
                self.finish(text, false);
            }
        }
        // Of equal scores the later text comes first.
        self.finished.reverse();
        self.finished.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.finished.into_iter().take(count).map(|(_, text)| text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEP: u32 = 3;
    const TWO: Beam = Beam {
        beams: 2,
        length_penalty: 1.0,
        repetition_penalty: 1.0,
        length: Length::Whole,
    };

    fn logs<const N: usize>(probabilities: [f32; N]) -> [f32; N] {
        probabilities.map(f32::ln)
    }

    #[test]
    fn a_likelier_whole_beats_a_likelier_beginning() {
        let mut beams = Beams::new(TWO, &[0], SEP);
        // Token 1 leads, but everything after it is unlikely.
        assert_eq!(beams.advance(&[&logs([0.05, 0.5, 0.4, 0.05])], false), [0, 0]);
        let after_1 = logs([0.3, 0.3, 0.3, 0.1]);
        let after_2 = logs([0.01, 0.01, 0.01, 0.97]);
        beams.advance(&[&after_1, &after_2], true);
        assert_eq!(beams.best(1)[0].tokens, [0, 2]);
    }

    #[test]
    fn an_end_beyond_the_first_n_candidates_is_dropped() {
        let mut beams = Beams::new(TWO, &[0], SEP);
        assert_eq!(beams.advance(&[&logs([0.4, 0.3, 0.1, 0.2])], true), [0, 0]);
        let open: Vec<&[u32]> = beams.open().iter().map(|text| text.tokens.as_slice()).collect();
        assert_eq!(open, [[0, 0], [0, 1]]);
        assert!(beams.finished.is_empty());
    }

    #[test]
    fn a_search_is_over_when_nothing_can_get_better() {
        let mut beams = Beams::new(TWO, &[0], SEP);
        beams.advance(&[&logs([0.3, 0.1, 0.1, 0.5])], true);
        assert_eq!(beams.open().len(), 2, "one finished text of two");
        let likely_end = logs([0.02, 0.02, 0.01, 0.95]);
        beams.advance(&[&likely_end, &likely_end], true);
        assert_eq!(
            beams.open().len(),
            2,
            "the best continuation still beat the worst finished text"
        );
        assert!(beams.advance(&[&likely_end, &likely_end], true).is_empty());
        assert!(beams.open().is_empty());
        let best = beams.best(2);
        assert_eq!(best[0].tokens, [0, 0]);
        assert!((best[0].log_probability - (0.3f32 * 0.95).ln()).abs() < 1e-6);
    }

    #[test]
    fn before_the_shortest_length_nothing_ends() {
        let mut beams = Beams::new(TWO, &[0], SEP);
        beams.advance(&[&logs([0.01, 0.02, 0.01, 0.96])], false);
        assert!(beams.finished.is_empty() && beams.open()[0].tokens == [0, 1]);
    }
}
