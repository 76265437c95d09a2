//! Map pages and checksum pages.

use crate::choices::Choices;
use crate::layouts::LAYOUTS;
use crate::seal;
use uraid_core::config::Index;
use uraid_core::geometry::{Geometry, MAP_ENTRIES_PER_PAGE, Slot, Stripe};
use uraid_core::pages::{
    ChecksumPage, Found, MapEntry, PageStamp, Peer, Sum, decode_map_page, encode_map_page,
};

const KEY: u64 = 7;

/// What is decoded lies inside the array, and is the same when written again.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    let g = c.pick(&LAYOUTS).superblocks()[0].geometry;
    let lane = c.below(g.lanes.into()) as u16;
    match c.one_in(2) {
        true => map_page(c, &g, lane),
        false => checksum_page(c, &g, lane),
    }
}

fn map_page(mut c: Choices<'_>, g: &Geometry, lane: u16) {
    let entries: Vec<MapEntry> = (0..c.below(8))
        .map(|_| MapEntry(c.number(1)))
        .chain([MapEntry::default(); MAP_ENTRIES_PER_PAGE as usize])
        .take(MAP_ENTRIES_PER_PAGE as usize)
        .collect();
    let mut bytes = encode_map_page(KEY, lane, 0, c.number(1), &entries);
    c.edit(&mut bytes);
    seal::metadata(&mut bytes, KEY);
    let Found::Valid(sequence, map) = decode_map_page(&bytes, KEY, g, lane, 0) else {
        return;
    };
    let slots = map.iter().filter_map(|e| e.slot());
    assert!(
        slots
            .clone()
            .all(|s| s.0 < g.slots && g.lane_of_slot(s) == usize::from(lane))
    );
    assert!(sequence.checked_mul(64).is_some());
    let again = encode_map_page(KEY, lane, 0, sequence, &map);
    assert_eq!(
        decode_map_page(&again, KEY, g, lane, 0),
        Found::Valid(sequence, map)
    );
}

fn checksum_page(mut c: Choices<'_>, g: &Geometry, lane: u16) {
    let member = Index(1);
    let mut page = ChecksumPage::blank();
    let slot =
        |c: &mut Choices<'_>| Slot(c.below(g.slots / u64::from(g.lanes)) * u64::from(g.lanes));
    let here = |slot: Slot, row: usize| g.group_place(slot, row).0 == 0;
    for _ in 0..c.below(4) {
        let (slot, row) = (slot(&mut c), c.index(g.shape.rows()));
        if here(slot, row) {
            page.take_group(g, slot, row, Stripe(c.below(g.stripes)), c.number(1));
            page.set_sum(
                g,
                slot,
                row,
                Sum {
                    crc: c.word(4) as u32,
                    generation: c.word(4) as u32,
                },
            );
        }
    }
    let mut bytes = encode(&mut page, c.number(1), g, lane, member);
    c.edit(&mut bytes);
    seal::metadata(&mut bytes, KEY);
    let Found::Valid(sequence, mut read) = ChecksumPage::decode(&bytes, KEY, member, lane, 0)
    else {
        return;
    };
    assert!(sequence.checked_mul(64).is_some());
    let again = encode(&mut read, sequence, g, lane, member);
    let Found::Valid(_, again) = ChecksumPage::decode(&again, KEY, member, lane, 0) else {
        panic!("what was written cannot be read");
    };
    for slot in (0..g.slots).step_by(g.lanes.into()).map(Slot) {
        for row in (0..g.shape.rows()).filter(|row| here(slot, *row)) {
            assert_eq!(read.sum(g, slot, row), again.sum(g, slot, row));
            assert_eq!(read.owner(g, slot, row), again.owner(g, slot, row));
        }
    }
    (0..g.shape.columns).for_each(|role| {
        read.peer(role);
    });
}

fn encode(
    page: &mut ChecksumPage,
    sequence: u64,
    g: &Geometry,
    lane: u16,
    member: Index,
) -> Vec<u8> {
    let stamp = PageStamp {
        member,
        lane,
        page: 0,
        sequence,
        checkpoint: sequence,
    };
    page.stamp(
        &stamp,
        &vec![Some(Peer::new(member, sequence)); g.shape.columns],
    );
    page.sealed(KEY)
}
