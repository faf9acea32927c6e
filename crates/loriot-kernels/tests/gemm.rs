//! Matrix products on every instruction set: against the f64 reference, and against themselves in pieces.

use loriot_kernels::gemm::{Init, Mat, MatMut, PackedWeight};
use loriot_kernels::{Isa, reference};

/// Sizes on both sides of every tile edge: rows of 4, 6 and 14, columns of 8, 16 and 32.
const SIZES: [usize; 16] = [0, 1, 2, 4, 5, 6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 65];

/// Sizes on both sides of the edges of blocks of `k` (256, 384) and of columns (512).
const LONG_SIZES: [usize; 6] = [256, 257, 384, 385, 513, 800];

/// Uniform in -1..1, from the seed alone.
fn noise(seed: usize, len: usize) -> Vec<f32> {
    let mut state = (seed as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// A matrix of noise that starts off alignment and whose rows (or columns, if `column_major`) are apart.
struct Stored {
    buffer: Vec<f32>,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

const OFFSET: usize = 3;

impl Stored {
    fn noise(seed: usize, rows: usize, cols: usize, column_major: bool) -> Stored {
        let (row_stride, col_stride) = if column_major { (1, rows + 5) } else { (cols + 5, 1) };
        let buffer = noise(seed, OFFSET + (rows + 5) * (cols + 5));
        Stored { buffer, rows, cols, row_stride, col_stride }
    }

    fn mat(&self) -> Mat<'_> {
        let &Stored { ref buffer, rows, cols, row_stride, col_stride } = self;
        Mat::strided(&buffer[OFFSET..], rows, cols, row_stride, col_stride)
    }

    fn mat_mut(&mut self) -> MatMut<'_> {
        let &mut Stored { ref mut buffer, rows, cols, row_stride, .. } = self;
        MatMut::strided(&mut buffer[OFFSET..], rows, cols, row_stride)
    }

    fn index(&self, row: usize, col: usize) -> usize {
        OFFSET + row * self.row_stride + col * self.col_stride
    }

    /// Row-major, without what lies between the rows.
    fn values(&self) -> Vec<f32> {
        let row = |row| (0..self.cols).map(move |col| self.buffer[self.index(row, col)]);
        (0..self.rows).flat_map(row).collect()
    }
}

/// `after` is `start + alpha·a·b` up to rounding, and what lies between its rows is as it was `before`.
///
/// A chain of `k` multiply-adds is off by at most `(k + 2)·ε·(|start| + Σ_k |alpha·a·b|)`, with the products' and
/// alpha's own rounding.
#[track_caller]
fn assert_product(
    (after, before): (&Stored, &Stored),
    start: &[f32],
    alpha: f32,
    a: &Stored,
    b: &Stored,
) {
    let shape @ (m, n, k) = (a.rows, b.cols, a.cols);
    let (a, b, mut want) = (widen(&a.values()), widen(&b.values()), widen(start));
    let abs = |values: &[f64]| values.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let mut magnitude = abs(&want);
    reference::gemm::gemm(&mut magnitude, f64::from(alpha.abs()), &abs(&a), &abs(&b), shape);
    reference::gemm::gemm(&mut want, f64::from(alpha), &a, &b, shape);
    let mut untouched = before.buffer.clone();
    for row in 0..m {
        for col in 0..n {
            let got = after.buffer[after.index(row, col)];
            untouched[after.index(row, col)] = got;
            let (want, magnitude) = (want[row * n + col], magnitude[row * n + col]);
            let bound = (k + 2) as f64 * f64::from(f32::EPSILON) * magnitude;
            let error = (f64::from(got) - want).abs();
            assert!(error <= bound, "({row}, {col}) of {m}×{n}, k = {k}: {got}, not {want}");
        }
    }
    assert_eq!(after.buffer, untouched, "written beside the {m}×{n} result");
}

/// Every operand transposed or not; the ways to start take turns.
#[track_caller]
fn check_gemm(isa: Isa, (m, n, k): (usize, usize, usize)) {
    for case in 0..4 {
        let a = Stored::noise(1, m, k, case & 1 != 0);
        let b = Stored::noise(2, k, n, case & 2 != 0);
        let before = Stored::noise(3, m, n, false);
        let bias = noise(4, n);
        let (alpha, init, start) = match (case + m + n + k) % 3 {
            0 => (1.0, Init::Zero, vec![0.0; m * n]),
            1 => (0.25, Init::Accumulate, before.values()),
            _ => (-1.7, Init::Bias(&bias), bias.repeat(m)),
        };
        let mut c = Stored::noise(3, m, n, false);
        isa.gemm(c.mat_mut(), alpha, a.mat(), b.mat(), init);
        assert_product((&c, &before), &start, alpha, &a, &b);
    }
}

#[test]
fn gemm_matches_reference_at_every_tile_edge_on_every_isa() {
    for isa in Isa::available() {
        for m in SIZES {
            for n in SIZES {
                for k in SIZES {
                    check_gemm(isa, (m, n, k));
                }
            }
        }
    }
}

#[test]
fn gemm_matches_reference_at_every_block_edge_on_every_isa() {
    for isa in Isa::available() {
        for long in LONG_SIZES {
            check_gemm(isa, (15, 33, long));
            check_gemm(isa, (15, long, 33));
            check_gemm(isa, (long, 33, 15));
        }
        check_gemm(isa, (17, 545, 801));
    }
}

#[test]
fn gemm_takes_views_that_are_contiguous_in_neither_direction() {
    let (m, n, k) = (15, 33, 20);
    let (a, b) = (noise(1, 2 * m * k), noise(2, 3 * k * n));
    let every_second = |values: &[f32], step: usize| values.iter().copied().step_by(step).collect();
    let (dense_a, dense_b): (Vec<f32>, Vec<f32>) = (every_second(&a, 2), every_second(&b, 3));
    for isa in Isa::available() {
        let (mut got, mut want) = (vec![0.0; m * n], vec![0.0; m * n]);
        let (a, b) = (Mat::strided(&a, m, k, 2 * k, 2), Mat::strided(&b, k, n, 3 * n, 3));
        isa.gemm(MatMut::row_major(&mut got, m, n), 1.0, a, b, Init::Zero);
        let (a, b) = (Mat::row_major(&dense_a, m, k), Mat::row_major(&dense_b, k, n));
        isa.gemm(MatMut::row_major(&mut want, m, n), 1.0, a, b, Init::Zero);
        assert_eq!(got, want, "{isa}");
    }
}

/// The packed weight and `gemm` are the same chain of products, so they agree to the bit in both directions.
#[test]
fn packed_weights_give_the_bits_of_gemm_in_both_directions() {
    let shapes = SIZES.iter().flat_map(|&o| SIZES.map(|i| (o, i)));
    for isa in Isa::available() {
        for (o, i) in shapes.clone().chain([(385, 70), (70, 385), (513, 800), (800, 513)]) {
            let w = noise(1, o * i);
            let packed = isa.pack(&[&w], i);
            if i == 0 {
                continue; // No value says how many outputs there are.
            }
            assert_eq!((packed.n_outputs(), packed.n_inputs()), (o, i));
            assert_eq!(packed.unpack(), w, "{isa}, {o}×{i}");
            for n in [1, 15] {
                let (x, dy, bias) = (noise(2, n * i), noise(3, n * o), noise(4, o));
                let (x, dy) = (Mat::row_major(&x, n, i), Mat::row_major(&dy, n, o));
                let w = Mat::row_major(&w, o, i);

                let (mut got, mut want) = (noise(5, n * o), noise(5, n * o));
                let init = Init::Bias(&bias);
                isa.linear(MatMut::row_major(&mut got, n, o), x, &packed, init);
                isa.gemm(MatMut::row_major(&mut want, n, o), 1.0, x, w.t(), init);
                assert_eq!(got, want, "{isa}, forward, {n} rows, {o}×{i}");

                let (mut got, mut want) = (noise(6, n * i), noise(6, n * i));
                let init = Init::Accumulate;
                isa.linear_backward(MatMut::row_major(&mut got, n, i), dy, &packed, init);
                isa.gemm(MatMut::row_major(&mut want, n, i), 1.0, dy, w, init);
                assert_eq!(got, want, "{isa}, backward, {n} rows, {o}×{i}");
            }
        }
    }
}

#[test]
fn stacked_blocks_make_one_weight_and_can_be_packed_anew() {
    let i = 21;
    let blocks = [noise(1, 17 * i), noise(2, 40 * i), noise(3, i)];
    let anew = [noise(4, 17 * i), noise(5, 40 * i), noise(6, i)];
    let slices = |blocks: &[Vec<f32>; 3]| blocks.concat();
    for isa in Isa::available() {
        let mut packed: PackedWeight = isa.pack(&[&blocks[0], &blocks[1], &blocks[2]], i);
        assert_eq!(packed.n_outputs(), 58);
        assert_eq!(packed.unpack(), slices(&blocks), "{isa}");
        packed.repack(&[&anew[0], &anew[1], &anew[2]]);
        assert_eq!(packed.unpack(), slices(&anew), "{isa}");
    }
}

/// What callers rely on when they split rows among threads, heads by columns, or batches by `k`.
#[track_caller]
fn check_pieces(isa: Isa, a: Mat, b: Mat, alpha: f32) {
    let (m, n, k) = (a.n_rows(), b.n_cols(), a.n_cols());
    let (start, bias) = (noise(3, m * n), noise(4, n));
    let cuts = |cuts: &[usize]| cuts.windows(2).map(|cut| cut[0]..cut[1]).collect::<Vec<_>>();
    let mut whole = start.clone();
    isa.gemm(MatMut::row_major(&mut whole, m, n), alpha, a, b, Init::Bias(&bias));

    let mut by_rows = start.clone();
    for rows in cuts(&[0, 1, 14, 15, 29, 60, m]) {
        let c = &mut by_rows[rows.start * n..rows.end * n];
        let c = MatMut::row_major(c, rows.len(), n);
        isa.gemm(c, alpha, a.rows(rows), b, Init::Bias(&bias));
    }
    assert_eq!(by_rows, whole, "{isa}: by rows");

    let mut by_columns = start.clone();
    for cols in cuts(&[0, 1, 8, 40, 73, 384, 546, n]) {
        let c = MatMut::row_major(&mut by_columns, m, n).columns(cols.clone());
        isa.gemm(c, alpha, a, b.columns(cols.clone()), Init::Bias(&bias[cols]));
    }
    assert_eq!(by_columns, whole, "{isa}: by columns");

    let mut by_k = start.clone();
    for depth in cuts(&[0, 1, 2, 50, 383, 384, 800, k]) {
        let init = if depth.start == 0 { Init::Bias(&bias) } else { Init::Accumulate };
        let c = MatMut::row_major(&mut by_k, m, n);
        isa.gemm(c, alpha, a.columns(depth.clone()), b.rows(depth), init);
    }
    assert_eq!(by_k, whole, "{isa}: by k");
}

#[test]
fn a_product_in_pieces_has_the_bits_of_the_whole() {
    let (m, n, k) = (61, 547, 811);
    let (a, b) = (noise(1, m * k), noise(2, k * n));
    for isa in Isa::available() {
        // Pieces of a few columns take another way where the left operand is a transposed view.
        for a in [Mat::row_major(&a, m, k), Mat::row_major(&a, k, m).t()] {
            for b in [Mat::row_major(&b, k, n), Mat::row_major(&b, n, k).t()] {
                check_pieces(isa, a, b, 0.7);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch() {
    let (n, o, i) = (43, 100, 500);
    let (x, w, bias) = (noise(1, n * i), noise(2, o * i), noise(3, o));
    for isa in Isa::available() {
        let packed = isa.pack(&[&w], i);
        let mut whole = vec![0.0; n * o];
        let x = Mat::row_major(&x, n, i);
        isa.linear(MatMut::row_major(&mut whole, n, o), x, &packed, Init::Bias(&bias));
        for row in 0..n {
            let mut alone = vec![0.0; o];
            let y = MatMut::row_major(&mut alone, 1, o);
            isa.linear(y, x.rows(row..row + 1), &packed, Init::Bias(&bias));
            assert_eq!(alone, whole[row * o..][..o], "{isa}, row {row}");
        }
    }
}

#[test]
fn fused_levels_agree_to_the_bit() {
    let fused: Vec<Isa> = Isa::available().into_iter().filter(|&isa| isa != Isa::SCALAR).collect();
    let (m, n, k) = (19, 45, 700);
    let (a, b) = (noise(1, m * k), noise(2, k * n));
    let results = fused.iter().map(|isa| {
        let mut c = vec![0.0; m * n];
        let (a, b) = (Mat::row_major(&a, m, k), Mat::row_major(&b, k, n));
        isa.gemm(MatMut::row_major(&mut c, m, n), 1.0, a, b, Init::Zero);
        c
    });
    let results: Vec<Vec<f32>> = results.collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{fused:?}");
}

#[test]
#[should_panic(expected = "shape of the right operand")]
fn shapes_that_do_not_fit_are_a_programming_error() {
    let (x, w) = (noise(1, 12), noise(2, 10));
    let mut y = vec![0.0; 6];
    let w = Isa::best().pack(&[&w], 5);
    let (x, y) = (Mat::row_major(&x, 3, 4), MatMut::row_major(&mut y, 3, 2));
    Isa::best().linear(y, x, &w, Init::Zero);
}
