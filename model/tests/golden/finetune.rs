//! Two whole steps of a captioner and of a filter, on two lanes each, at the shape of `small`.

use crate::support::TwoSteps;
use medley_model::blip::Candidates;
use medley_model::device::Pool;
use medley_model::replay::step;

#[test]
fn a_captioners_loss_and_gradients_agree() {
    TwoSteps::open("captioner").check_first();
}

#[test]
fn a_captioner_agrees_after_two_steps() {
    TwoSteps::open("captioner").check_after();
}

#[test]
fn a_filters_losses_and_gradients_agree() {
    TwoSteps::open("filter").check_first();
}

#[test]
fn a_filter_agrees_after_two_steps_with_its_queue_of_images() {
    TwoSteps::open("filter").check_after();
}

#[test]
fn what_an_objective_does_not_train_stays_as_it_is() {
    for name in ["captioner", "filter"] {
        let TwoSteps {
            config,
            blip,
            mut state,
            batches: [batch, _],
            first,
            ..
        } = TwoSteps::open(name);
        let untrained: Vec<_> = blip
            .student_layout
            .entries()
            .iter()
            .filter(|entry| !first.has(&format!("grad.{}", entry.name)))
            .collect();
        assert!(untrained.len() > 10, "{name}");
        for entry in &untrained {
            state.params[entry.range()].fill(0.3);
        }
        step(&blip, &config, &mut state, &batch).unwrap();
        for entry in untrained {
            assert!(
                state.params[entry.range()].iter().all(|v| *v == 0.3),
                "{name}: {}",
                entry.name
            );
        }
    }
}

#[test]
fn the_filters_negatives_are_those_that_lanes_draw() {
    let TwoSteps {
        config,
        blip,
        mut state,
        batches,
        ..
    } = TwoSteps::open("filter");
    for batch in &batches {
        let mut settled = state.clone();
        settled.settle(&blip, config.objective, &config.train());
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        for lane in 0..config.lanes {
            let part = batch.lane(lane, config.lanes);
            let step = config.lane_step(settled.step, lane, batch.alpha);
            let (image, text) = blip
                .student_features(&settled, part.batch(), step, &mut Pool::default())
                .wait();
            images.extend(image);
            texts.extend(text);
        }
        let candidates = Candidates {
            image_features: &images,
            text_features: &texts,
            identities: &batch.identities,
        };
        let b = batch.texts.len() / config.lanes as usize;
        for lane in 0..config.lanes {
            let drawn = blip.draw(
                settled.temperature(&blip),
                candidates,
                config.lane_step(settled.step, lane, batch.alpha),
                b,
            );
            let own = lane as usize * b..(lane as usize + 1) * b;
            assert_eq!(drawn.image_of_text, batch.negatives.image_of_text[own.clone()]);
            assert_eq!(drawn.text_of_image, batch.negatives.text_of_image[own]);
        }
        step(&blip, &config, &mut state, batch).unwrap();
    }
}
