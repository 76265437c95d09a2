//! Crashes at the steps of short stories, a sample of them; `simulate --exhaustive` tries all.

use uraid_sim::exhaust::{Depth, Exhaust};
use uraid_sim::scenario::Layout;

#[test]
fn every_story_survives_crashes_in_every_layout() {
    let mut images = 0;
    for (layout, story) in Exhaust::all(&Layout::ALL) {
        let exhaust = Exhaust::new(layout, story);
        let tried = exhaust.and_then(|e| e.run(Depth::QUICK));
        let tried = tried.unwrap_or_else(|what| {
            panic!(
                "{what}\nreplay: cargo run --profile simulate -p simulate -- --exhaustive --quick \
                 --layouts {} --story {}",
                layout.name, story.name
            )
        });
        images += tried.images;
    }
    assert!(images > 1000, "only {images} images were tried");
}
