//! A step with dropout and drop-path everywhere, the teacher's included, and negatives drawn from its logits.

use crate::small::start;
use crate::support::{Golden, path};
use medley_model::blip::{Blip, LaneStep, gradient_buffer};
use medley_model::device::Pool;
use medley_model::loss::itc::Distillation;
use medley_model::params::Objective;
use medley_protocol::spec::SameImage;

#[test]
fn a_step_with_the_same_masks_agrees() {
    let (_, plain, state, [batch, _]) = start();
    let mut model = plain.model.clone();
    (model.text.dropout, model.vision.drop_path) = (0.1, 0.3);
    let blip = Blip::new(&model, plain.image_size, plain.vocab);
    let step = LaneStep {
        objective: Objective::Pretrain,
        seed: 5,
        step: 9,
        lane: 1,
        distillation: Distillation {
            alpha: 0.3,
            temperature: None,
        },
        same_image: SameImage::Negative,
        prompt_tokens: 0,
    };
    let mut gradient = gradient_buffer(&blip);
    let found = blip.lane(
        &state,
        batch.lane(0, 1).batch(),
        step,
        &mut Pool::default(),
        &mut gradient,
    );
    let (found, golden) = (found.unwrap(), Golden::open(&path("dropout.safetensors")));
    golden.check_losses(found.losses);
    golden.check_forward("image_feat_m", &found.image_features);
    golden.check_forward("text_feat_m", &found.text_features);
    golden.check_gradients(&blip.student_layout, &gradient);
}
