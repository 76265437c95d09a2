//! A stripe in memory, aligned as the engine's buffers are, and the codes that work on it.

use crate::isal::{IsaL, Map};
use uraid_buffer::{BufMut, Pool};
use uraid_parity::{Code, ColumnSet, Kernels, Plan};

/// Data and parity columns.
pub const SHAPES: [(usize, usize); 4] = [(4, 1), (4, 2), (8, 3), (10, 4)];
/// Bytes of a column.
pub const SIZES_BYTES: [usize; 2] = [4 << 10, 64 << 10];

/// Data columns, parity columns, and room for one that is reconstructed.
pub struct Stripe {
    code: Code,
    data: Vec<BufMut>,
    parity: Vec<BufMut>,
    rebuilt: BufMut,
}

impl Stripe {
    /// A stripe with some content and no parity yet.
    pub fn new(k: usize, m: usize, bytes: usize) -> Stripe {
        let pool = Pool::heap();
        let byte = |column: usize, i: usize| (column * 31 + i * 7 + i / 251) as u8;
        let column = |number: usize| {
            let mut column = pool.zeroed(bytes);
            column
                .iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b = byte(number, i));
            column
        };
        Stripe {
            code: Code::mds(k, m).expect("a possible shape"),
            data: (0..k).map(column).collect(),
            parity: (0..m).map(|_| pool.zeroed(bytes)).collect(),
            rebuilt: pool.zeroed(bytes),
        }
    }

    /// How many data columns are lost where a reconstruction is measured: the first ones.
    pub fn lost(&self) -> usize {
        self.parity.len().min(self.data.len())
    }

    /// How the first data column comes back.
    pub fn plan(&self) -> Plan {
        let have = ColumnSet::first(self.code.columns()).minus(ColumnSet::first(self.lost()));
        let plan = self.code.plan(have, ColumnSet::single(0));
        plan.expect("so many losses are survived")
    }

    /// All data columns, and all parity columns to be computed.
    pub fn columns(&mut self) -> (Vec<&[u8]>, Vec<&mut [u8]>) {
        let parity = self.parity.iter_mut().map(|p| &mut p[..]);
        (slices(&self.data), parity.collect())
    }

    /// Parities by our kernels.
    pub fn encode(&mut self, kernels: &Kernels) {
        let mut parity: Vec<&mut [u8]> = self.parity.iter_mut().map(|p| &mut p[..]).collect();
        kernels.encode(&self.code, &slices(&self.data), &mut parity);
    }

    /// The first data column by our kernels.
    pub fn reconstruct(&mut self, kernels: &Kernels, plan: &Plan) {
        let column = |number: &usize| match number.checked_sub(self.data.len()) {
            None => &self.data[*number][..],
            Some(parity) => &self.parity[parity][..],
        };
        let sources: Vec<&[u8]> = plan.sources.iter().map(column).collect();
        kernels.reconstruct(plan, &sources, &mut [&mut self.rebuilt[..]]);
    }

    /// Parities by ISA-L's code for any shape, which are not ours.
    pub fn encode_by_isal(&mut self, isal: &IsaL, map: &Map) {
        let (data, mut parity) = self.columns();
        isal.apply(map, &data, &mut parity);
    }

    /// Parities by ISA-L's code for RAID 5 and 6.
    pub fn encode_by_isal_raid(&mut self, isal: &IsaL) {
        let (data, mut parity) = self.columns();
        isal.raid(&data, &mut parity);
    }

    /// The first data column by ISA-L, from its own parities.
    pub fn reconstruct_by_isal(&mut self, isal: &IsaL, map: &Map) {
        let left = slices(&self.data[self.lost()..]).into_iter();
        let sources: Vec<&[u8]> = left
            .chain(slices(&self.parity))
            .take(self.data.len())
            .collect();
        isal.apply(map, &sources, &mut [&mut self.rebuilt[..]]);
    }

    /// P and Q are the same whoever computes them: who is timed does the whole work.
    pub fn check_isal(&mut self, isal: &IsaL) {
        if self.parity.len() > 2 {
            return;
        }
        self.encode(Kernels::detect());
        let ours: Vec<Vec<u8>> = self.parity.iter().map(|p| p.to_vec()).collect();
        self.parity.iter_mut().for_each(|p| p.fill(0));
        self.encode_by_isal_raid(isal);
        let same = self.parity.iter().zip(&ours).all(|(a, b)| a[..] == b[..]);
        assert!(same, "ISA-L's P and Q are not ours");
    }

    /// The column that was reconstructed last is the one that was lost.
    pub fn check_reconstructed(&mut self) {
        let same = self.rebuilt[..] == self.data[0][..];
        assert!(same, "the column that came back is not the lost one");
        self.rebuilt.fill(0);
    }
}

fn slices(columns: &[BufMut]) -> Vec<&[u8]> {
    columns.iter().map(|c| &c[..]).collect()
}
