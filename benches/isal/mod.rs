//! Intel's ISA-L, which erasure codes are usually measured against. It is loaded at run time where
//! it is installed (Debian: `libisal2`), so that nothing is needed to build, and what it computes
//! is checked before it is timed.

use libloading::Library;
use std::ffi::{c_int, c_uchar, c_void};

/// Names of the library, the distributions' first.
const NAMES: [&str; 2] = ["libisal.so.2", "libisal.so"];
/// Bytes of tables for each coefficient.
const TABLE_BYTES: usize = 32;

type Matrix = unsafe extern "C" fn(*mut c_uchar, c_int, c_int);
type Invert = unsafe extern "C" fn(*mut c_uchar, *mut c_uchar, c_int) -> c_int;
type Tables = unsafe extern "C" fn(c_int, c_int, *mut c_uchar, *mut c_uchar);
type Encode =
    unsafe extern "C" fn(c_int, c_int, c_int, *mut c_uchar, *mut *mut c_uchar, *mut *mut c_uchar);
type Raid = unsafe extern "C" fn(c_int, c_int, *mut *mut c_void) -> c_int;

/// The library's functions.
pub struct IsaL {
    matrix: Matrix,
    invert: Invert,
    tables: Tables,
    encode: Encode,
    xor: Raid,
    pq: Raid,
    /// Last: the functions above are of no use without it.
    _library: Library,
}

/// A linear map from some columns to others, in the library's own form.
pub struct Map {
    sources: usize,
    targets: usize,
    tables: Vec<u8>,
}

impl IsaL {
    /// The library, where it is installed.
    pub fn load() -> Option<IsaL> {
        // SAFETY: the library's initialisers have no preconditions.
        let open = |name: &&str| unsafe { Library::new(*name) }.ok();
        let library = NAMES.iter().find_map(open)?;
        // SAFETY: these are the types that ISA-L's headers give these functions, which it keeps
        // within a major version; they are called only while the library is loaded.
        unsafe {
            Some(IsaL {
                matrix: *library.get(c"gf_gen_cauchy1_matrix").ok()?,
                invert: *library.get(c"gf_invert_matrix").ok()?,
                tables: *library.get(c"ec_init_tables").ok()?,
                encode: *library.get(c"ec_encode_data").ok()?,
                xor: *library.get(c"xor_gen").ok()?,
                pq: *library.get(c"pq_gen").ok()?,
                _library: library,
            })
        }
    }

    /// Data columns to parities.
    pub fn encoder(&self, data: usize, parity: usize) -> Map {
        let mut matrix = self.code(data, parity);
        self.map(data, parity, &mut matrix[data * data..])
    }

    /// What is left of a stripe that lost its first `lost` data columns to the first of them; the
    /// sources are the other data columns, then parities.
    pub fn decoder(&self, data: usize, parity: usize, lost: usize) -> Map {
        let code = self.code(data, parity);
        let mut left = code[lost * data..(lost + data) * data].to_vec();
        let mut inverse = vec![0; data * data];
        // SAFETY: both are square matrices of `data` rows.
        let singular =
            unsafe { (self.invert)(left.as_mut_ptr(), inverse.as_mut_ptr(), data as c_int) };
        assert_eq!(singular, 0, "any {data} columns of a Cauchy code decode");
        self.map(data, 1, &mut inverse[..data])
    }

    /// Identity rows, then parity rows.
    fn code(&self, data: usize, parity: usize) -> Vec<u8> {
        let rows = data + parity;
        let mut matrix = vec![0; rows * data];
        // SAFETY: the matrix has `rows` rows of `data` bytes.
        unsafe { (self.matrix)(matrix.as_mut_ptr(), rows as c_int, data as c_int) };
        matrix
    }

    fn map(&self, sources: usize, targets: usize, rows: &mut [u8]) -> Map {
        assert_eq!(rows.len(), sources * targets);
        let mut tables = vec![0; TABLE_BYTES * sources * targets];
        // SAFETY: a coefficient for each pair of source and target, and tables for each of them.
        unsafe {
            (self.tables)(
                sources as c_int,
                targets as c_int,
                rows.as_mut_ptr(),
                tables.as_mut_ptr(),
            );
        }
        Map {
            sources,
            targets,
            tables,
        }
    }

    /// Computes `out` from `columns`, by the code that works for any shape.
    pub fn apply(&self, map: &Map, columns: &[&[u8]], out: &mut [&mut [u8]]) {
        assert_eq!((columns.len(), out.len()), (map.sources, map.targets));
        let len = common_len(columns, out);
        let mut sources: Vec<_> = columns.iter().map(|c| c.as_ptr().cast_mut()).collect();
        let mut targets: Vec<_> = out.iter_mut().map(|c| c.as_mut_ptr()).collect();
        // SAFETY: all columns have `len` bytes, and there are as many as the tables are for. The
        // tables and the sources are only read, whatever their types say.
        unsafe {
            (self.encode)(
                len as c_int,
                map.sources as c_int,
                map.targets as c_int,
                map.tables.as_ptr().cast_mut(),
                sources.as_mut_ptr(),
                targets.as_mut_ptr(),
            );
        }
    }

    /// Computes P, or P and Q, by the code made for RAID 5 and RAID 6 alone. Columns must be
    /// aligned to 64 bytes.
    pub fn raid(&self, columns: &[&[u8]], out: &mut [&mut [u8]]) {
        let function = match out.len() {
            1 => self.xor,
            2 => self.pq,
            other => panic!("ISA-L has no RAID with {other} parities"),
        };
        let len = common_len(columns, out);
        let sources = columns.iter().map(|c| c.as_ptr().cast_mut());
        let targets = out.iter_mut().map(|c| c.as_mut_ptr());
        let mut all: Vec<*mut c_void> = sources.chain(targets).map(|p| p.cast()).collect();
        assert!(all.iter().all(|p| p.addr().is_multiple_of(64)), "aligned");
        // SAFETY: all columns have `len` bytes and the alignment asked for; the last one or two
        // are written, and these come from exclusive references.
        let failed = unsafe { function(all.len() as c_int, len as c_int, all.as_mut_ptr()) };
        assert_eq!(failed, 0, "ISA-L refused the columns");
    }
}

fn common_len(columns: &[&[u8]], out: &[&mut [u8]]) -> usize {
    let len = columns[0].len();
    assert!(
        columns.iter().all(|c| c.len() == len),
        "columns of one length"
    );
    assert!(out.iter().all(|c| c.len() == len), "columns of one length");
    len
}
