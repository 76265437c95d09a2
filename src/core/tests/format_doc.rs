//! `docs/format.md` says what the code does: its worked examples are computed here.

use uraid_core::geometry::{Geometry, Level, Shape};

fn examples() -> String {
    let mut text = String::from(
        "| array | member | lanes | ring | map | checksums | data | slots | stripes |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (level, members, chunk, bytes) in [
        (Level::Raid1, 2, 64 << 10, 64 << 20),
        (Level::Raid6, 6, 64 << 10, 1 << 30),
        (Level::Raid5, 5, 1 << 20, 1 << 40),
    ] {
        let shape = Shape::new(level, members, None, None, Some(chunk)).unwrap();
        let g = Geometry::plan(shape, bytes, None).unwrap();
        let z = g.zones();
        text += &format!(
            "| {level} x {members}, chunk {chunk} | {bytes} | {} | {} | {} | {} | {} | {} | {} |\n",
            g.lanes,
            g.ring_blocks * 4096,
            z.map,
            z.checksums,
            z.data,
            g.slots,
            g.stripes
        );
    }
    text
}

#[test]
fn the_worked_examples_are_right() {
    let doc = include_str!("../../../docs/format.md");
    let (begin, end) = ("<!-- zones:begin -->\n", "<!-- zones:end -->");
    let start = doc.find(begin).unwrap() + begin.len();
    let there = &doc[start..doc.find(end).unwrap()];
    assert_eq!(
        there,
        examples(),
        "put this between the markers of docs/format.md"
    );
}
