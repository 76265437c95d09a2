//! Metadata that contradicts itself under seals that are right. No fault does that, so nobody
//! knows which side is wrong: the array is refused, and left as it was found. Where the config
//! says which member is out of date, nothing that this member claims counts.

use hostile::layouts::LAYOUTS;
use hostile::open::host::Host;
use hostile::open::images::{Image, Past, made, options};
use hostile::open::member::Member;
use uraid_buffer::Pool;
use uraid_core::checksum;
use uraid_core::config::Index;
use uraid_core::geometry::{Geometry, Level, Slot, Stripe};
use uraid_core::journal::{Checkpoint, Entry, Header, HeaderKind};
use uraid_core::pages::{Found, MapEntry, decode_map_page, encode_map_page};
use uraid_core::units::{BLOCK, BLOCK_BYTES};
use uraid_engine::api::Request;
use uraid_parity::ColumnSet;

/// The newest map page, with its number, as all members have it.
fn map_page(image: &Image) -> (u64, Vec<MapEntry>) {
    let (s, g) = (&image.superblocks[0], image.superblocks[0].geometry);
    let copies = [0, 1].map(|copy| {
        let bytes = image.members[0].get(g.map_page_offset(0, 0, copy), BLOCK_BYTES);
        match decode_map_page(&bytes, s.key, &g, 0, 0) {
            Found::Valid(sequence, map) => Some((sequence, map)),
            Found::Blank | Found::Damaged => None,
        }
    });
    let newest = copies.into_iter().flatten().max_by_key(|(n, _)| *n);
    newest.expect("stripes were written")
}

/// Stripes that have a slot, and slots of nobody.
fn places(g: &Geometry, map: &[MapEntry]) -> (Vec<(Stripe, Slot)>, Vec<Slot>) {
    let used = (0..)
        .zip(map)
        .filter_map(|(n, e)| Some((Stripe(n), e.slot()?)));
    let used: Vec<_> = used.collect();
    let is_free = |slot: &Slot| used.iter().all(|(_, other)| other != slot);
    (
        used.clone(),
        (0..g.slots).map(Slot).filter(is_free).collect(),
    )
}

/// The newest checkpoint of a member, and its place.
fn checkpoint(member: &Member, g: &Geometry, key: u64, index: Index) -> (usize, Checkpoint) {
    let read = |copy| {
        let bytes = member.get(g.checkpoint_offset(0, copy), BLOCK_BYTES);
        Some((copy, Checkpoint::decode(&bytes, key, 0, index)?))
    };
    let newest = [0, 1]
        .into_iter()
        .filter_map(read)
        .max_by_key(|(_, c)| c.number);
    newest.expect("it was stopped in order")
}

/// Adds a batch to the journals of all members; rows in it are blocks of zeros.
fn journal(image: &mut Image, entries: Vec<Entry>, payload_blocks: u32) {
    for (member, s) in image.members.iter_mut().zip(&image.superblocks) {
        let g = s.geometry;
        let (_, last) = checkpoint(member, &g, s.key, s.index);
        let header = Header {
            kind: HeaderKind::Batch,
            lane: 0,
            member: s.index,
            epoch: last.epoch,
            config_epoch: s.config.epoch,
            config_nonce: s.config.nonce,
            seq: last.tail,
            pos: last.tail_pos,
            tail: last.tail,
            durable_upto: last.tail,
            participants: (1 << image.superblocks.len()) - 1,
            payload_blocks,
            entries: entries.clone(),
        };
        let mut bytes = header.encode(s.key);
        bytes.resize(bytes.len() + payload_blocks as usize * BLOCK_BYTES, 0);
        let at = last.tail_pos % g.ring_blocks;
        assert!(at + bytes.len() as u64 / BLOCK <= g.ring_blocks);
        member.write(g.ring_offset(0) + at * BLOCK, &bytes);
    }
}

/// The first row of a stripe, in this slot, on all members.
fn row(image: &Image, stripe: Stripe, slot: Slot) -> Entry {
    let s = &image.superblocks[0];
    let columns = s.geometry.shape.columns;
    let sum = |column| checksum::block(s.key, slot, 0, column, &[0; BLOCK_BYTES]);
    Entry::Row {
        stripe,
        slot,
        row: 0,
        columns: ColumnSet::first(columns),
        checksums: (0..columns).map(sum).collect(),
    }
}

/// It is refused with these words, and not a byte of it is changed.
fn assert_refused_and_untouched(image: &Image, says: &str) {
    let mut host = Host::open(image.members.clone(), options(100));
    let refusal = host.wait_open().expect_err("it was opened");
    assert!(refusal.text.contains(says), "{}", refusal.text);
    for (before, after) in image.members.iter().zip(host.kill()) {
        for block in after.written() {
            let at = |member: &Member| member.get(block * BLOCK, BLOCK_BYTES);
            assert!(at(before) == at(&after), "block {block} was overwritten");
        }
    }
}

/// An array that was stopped, whose members do not say that no journal follows.
fn stopped() -> Image {
    made(0, Past::Stopped, false)
}

#[test]
fn a_row_where_its_stripe_was_not_put() {
    let mut image = stopped();
    let (used, free) = places(&image.superblocks[0].geometry, &map_page(&image).1);
    let ((stripe, _), (_, anothers)) = (used[0], used[1]);
    let moved = Entry::Alloc {
        stripe,
        slot: free[0],
    };
    let row = row(&image, stripe, anothers);
    journal(&mut image, vec![moved, row], 1);
    assert_refused_and_untouched(&image, "its journal contradicts itself");
}

#[test]
fn a_row_of_a_stripe_just_emptied() {
    let mut image = stopped();
    let (used, _) = places(&image.superblocks[0].geometry, &map_page(&image).1);
    let (stripe, slot) = used[0];
    let emptied = Entry::Unmap {
        first: stripe,
        count: 1,
    };
    let row = row(&image, stripe, slot);
    journal(&mut image, vec![emptied, row], 1);
    assert_refused_and_untouched(&image, "its journal contradicts itself");
}

#[test]
fn a_move_to_a_place_that_is_anothers() {
    let mut image = stopped();
    let (used, _) = places(&image.superblocks[0].geometry, &map_page(&image).1);
    let ((stripe, _), (_, slot)) = (used[0], used[1]);
    journal(&mut image, vec![Entry::Alloc { stripe, slot }], 0);
    assert_refused_and_untouched(&image, "two stripes claim slot");
}

/// A page that counts as the newest is not given to the other members, who have better ones.
#[test]
fn a_map_page_with_two_stripes_in_one_slot() {
    for newer in [1, 2] {
        let mut image = stopped();
        let (key, g) = (image.superblocks[1].key, image.superblocks[1].geometry);
        let (sequence, mut map) = map_page(&image);
        let (used, _) = places(&g, &map);
        map[used[0].0.0 as usize] = map[used[1].0.0 as usize];
        let sequence = sequence + newer;
        let bytes = encode_map_page(key, 0, 0, sequence, &map);
        image.members[1].write(g.map_page_offset(0, 0, (sequence % 2) as usize), &bytes);
        assert_refused_and_untouched(&image, "two stripes claim slot");
        // Without that member all is well.
        image.members.remove(1);
        let mut host = Host::open(image.members, options(100));
        let opened = host.wait_open();
        opened.unwrap_or_else(|refusal| panic!("{}", refusal.text));
        let len = image.content.len() as u64;
        let read = host.request([Request::Read { offset: 0, len }]);
        assert!(read == [Ok(image.content)], "as it was when it was stopped");
    }
}

/// Whatever a member claims that has left: the config that it has not is newer.
#[test]
fn a_checkpoint_of_a_member_that_has_left() {
    let layout = LAYOUTS.iter().position(|l| l.level == Level::Raid1);
    let mut image = made(layout.expect("there are mirrors"), Past::Stopped, false);
    let mut left = image.members.remove(0);
    let mut host = Host::open(image.members, options(1));
    let opened = host.wait_open();
    opened.unwrap_or_else(|refusal| panic!("{}", refusal.text));
    let data = [0xab; BLOCK_BYTES];
    image.content[..BLOCK_BYTES].copy_from_slice(&data);
    let data = Pool::heap().copy(&data);
    let fua = true;
    host.request([Request::Write {
        offset: 0,
        data,
        fua,
    }]);
    let mut members = host.stop();
    let s = &image.superblocks[0];
    let (place, mut forged) = checkpoint(&left, &s.geometry, s.key, s.index);
    forged.epoch += 7;
    forged.witnessed_tail = forged.tail;
    let bytes = forged.encode(s.key, None);
    left.write(s.geometry.checkpoint_offset(0, place), &bytes);
    members.push(left);
    let mut host = Host::open(members, options(2));
    let opened = host.wait_open();
    opened.unwrap_or_else(|refusal| panic!("{}", refusal.text));
    let len = image.content.len() as u64;
    let read = host.request([Request::Read { offset: 0, len }]);
    assert!(read == [Ok(image.content)], "the newest write is there");
}

/// Journal epochs count upwards. What a checkpoint that is wrong takes for the next one must not be
/// one that was used: the old records would be replayed over the new ones.
#[test]
fn a_checkpoint_of_an_epoch_long_past() {
    let mut image = made(0, Past::Stopped, false);
    let used = (image.members.iter().zip(&image.superblocks))
        .map(|(member, s)| checkpoint(member, &s.geometry, s.key, s.index))
        .collect::<Vec<_>>();
    for ((member, s), (_, last)) in image.members.iter_mut().zip(&image.superblocks).zip(used) {
        assert!(last.epoch > 0);
        for place in [0, 1] {
            let forged = Checkpoint {
                epoch: last.epoch - 1,
                ..last
            };
            let bytes = forged.encode(s.key, None);
            member.write(s.geometry.checkpoint_offset(0, place), &bytes);
        }
    }
    // Not where the records are, but they are met.
    journal(
        &mut image,
        vec![Entry::Unmap {
            first: Stripe(0),
            count: 1,
        }],
        0,
    );
    let mut host = Host::open(image.members, options(1));
    let opened = host.wait_open();
    opened.unwrap_or_else(|refusal| panic!("{}", refusal.text));
    let s = &image.superblocks[0];
    let members = host.stop();
    let (_, now) = checkpoint(&members[0], &s.geometry, s.key, s.index);
    let ring =
        s.geometry.ring_offset(0)..s.geometry.ring_offset(0) + s.geometry.ring_blocks * BLOCK;
    let in_ring = members[0]
        .written()
        .into_iter()
        .filter(|b| ring.contains(&(b * BLOCK)));
    let headers = in_ring.filter_map(|block| {
        Header::decode(
            &members[0].get(block * BLOCK, BLOCK_BYTES),
            s.key,
            &s.geometry,
        )
    });
    let newest = headers.map(|h| h.epoch).max().expect("it was written to");
    assert!(now.epoch > newest, "epoch {} after {newest}", now.epoch);
}
