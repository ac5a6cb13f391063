//! Image and text towers with their projections: the student's, or the momentum encoders'.

use crate::layout::{Layout, ParamId};
use crate::tape::{Tape, Var};
use crate::text::Text;
use crate::vision::{Pair, Vision};
use medley_protocol::spec::ModelSpec;

/// Towers and projections over one layout.
pub struct Towers {
    /// Image tower.
    pub vision: Vision,
    /// Text towers.
    pub text: Text,
    vision_proj: Pair,
    text_proj: Pair,
}

impl Towers {
    pub(super) fn new(model: &ModelSpec, layout: &Layout) -> Self {
        Self {
            vision: Vision::new(&model.vision, layout),
            text: Text::new(&model.text, layout),
            vision_proj: Pair::of(layout, "vision_proj"),
            text_proj: Pair::of(layout, "text_proj"),
        }
    }

    /// Weights that are factors of products and nothing else.
    pub(super) fn factors(&self) -> impl Iterator<Item = ParamId> {
        let projections = [self.vision_proj.w, self.text_proj.w];
        self.vision.factors().chain(self.text.factors()).chain(projections)
    }

    /// Unit features of class tokens.
    ///
    /// # Shapes
    /// b × width → b × e
    pub fn image_features(&self, tape: &mut Tape, class: Var) -> Var {
        let projected = self.vision_proj.linear(tape, class);
        tape.l2_norm(projected)
    }

    /// Unit features of texts' first tokens.
    ///
    /// # Shapes
    /// t × width → t × e
    pub fn text_features(&self, tape: &mut Tape, first: Var) -> Var {
        let projected = self.text_proj.linear(tape, first);
        tape.l2_norm(projected)
    }
}
