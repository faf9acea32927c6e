//! Matrix products on every instruction set: against the f64 reference, and against themselves in pieces.

use loriot_kernels::activation::Activation;
use loriot_kernels::gemm::{Added, Epilogue, Init, Mat, MatMut, PackedWeight, Precision};
use loriot_kernels::isa::{ISA_VARIABLE, Level};
use loriot_kernels::{Isa, reference};
use std::ops::Range;

/// Sizes on both sides of every tile edge: rows of 4, 6 and 14, columns of 8, 16 and 32.
const SIZES: [usize; 16] = [0, 1, 2, 4, 5, 6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 65];

/// Sizes on both sides of the edges of blocks of `k` (256, 384) and of columns (512).
const LONG_SIZES: [usize; 6] = [256, 257, 384, 385, 513, 800];

/// The levels that these tests run on: the one that `LORIOT_ISA` names, or all there are.
fn isas() -> Vec<Isa> {
    match std::env::var_os(ISA_VARIABLE) {
        Some(_) => vec![Isa::from_env().expect("a level of this CPU")],
        None => Isa::available(),
    }
}

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
    for isa in isas() {
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
    for isa in isas() {
        for long in LONG_SIZES {
            check_gemm(isa, (15, 33, long));
            check_gemm(isa, (15, long, 33));
            check_gemm(isa, (long, 33, 15));
        }
        check_gemm(isa, (17, 545, 801));
    }
}

/// Blocks of rows have at most 512, blocks of columns 128: products with several of each, and of no terms at all.
#[test]
fn gemm_matches_reference_with_several_blocks_of_rows_and_of_columns() {
    for isa in isas() {
        for (m, n, k) in [(530, 200, 40), (1030, 129, 385), (300, 600, 33)] {
            check_gemm(isa, (m, n, k));
        }
        for (m, n) in [(15, 129), (15, 300), (513, 128), (600, 300), (1, 300), (300, 1), (300, 3)] {
            check_gemm(isa, (m, n, 0));
        }
    }
}

#[test]
fn gemm_takes_views_that_are_contiguous_in_neither_direction() {
    let (m, n, k) = (15, 33, 20);
    let (a, b) = (noise(1, 2 * m * k), noise(2, 3 * k * n));
    let every_second = |values: &[f32], step: usize| values.iter().copied().step_by(step).collect();
    let (dense_a, dense_b): (Vec<f32>, Vec<f32>) = (every_second(&a, 2), every_second(&b, 3));
    for isa in isas() {
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
    for isa in isas() {
        for (o, i) in shapes.clone().chain([(385, 70), (70, 385), (513, 800), (800, 513)]) {
            let w = noise(1, o * i);
            let packed = isa.pack(&[&w], i, Precision::F32);
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

/// `x`, rounded to bf16 by its definition.
fn bf16(x: f32) -> f32 {
    let (below, bits) = (f32::from_bits(x.to_bits() & 0xffff_0000), x.to_bits() & 0xffff);
    let above = f32::from_bits((x.to_bits() & 0xffff_0000).wrapping_add(0x1_0000));
    let is_odd = x.to_bits() & 0x1_0000 != 0;
    if bits > 0x8000 || bits == 0x8000 && is_odd { above } else { below }
}

/// Rows as int8 kernels see them: each rounded to 255 steps from its negative greatest to its greatest.
fn int8_rows(x: &[f32], i: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let greatest = row.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        let per_unit = if greatest > 0.0 { 127.0 / greatest } else { 0.0 };
        let scale = greatest / 127.0;
        row.iter().map(|x| (x * per_unit).round_ties_even() * scale).collect::<Vec<_>>()
    };
    x.chunks(i).flat_map(row).collect()
}

/// A dense `c` is `start + a·b` up to the rounding of sums.
#[track_caller]
fn assert_dense(c: &[f32], start: &[f32], a: Mat, b: Mat, what: &str) {
    let (n, k) = (b.n_cols(), a.n_cols());
    for (at, &got) in c.iter().enumerate() {
        let product = |k| f64::from(a.at(at / n, k)) * f64::from(b.at(k, at % n));
        let start = f64::from(start[at]);
        let want = start + (0..k).map(product).sum::<f64>();
        let magnitude = start.abs() + (0..k).map(|k| product(k).abs()).sum::<f64>();
        let bound = (k + 2) as f64 * f64::from(f32::EPSILON) * magnitude;
        let error = (f64::from(got) - want).abs();
        assert!(error <= bound, "{what}, {at} of {}×{n}, k = {k}: {got}, not {want}", a.n_rows());
    }
}

/// Rounded operands give the product of what they were rounded to.
#[test]
fn products_in_bf16_are_those_of_rounded_operands_in_every_direction() {
    for isa in isas() {
        let is_native = isa.has_native(Precision::Bf16);
        let round = |x: &[f32]| -> Vec<f32> {
            x.iter().map(|&x| if is_native { bf16(x) } else { x }).collect()
        };
        for (n, o, i) in [(1, 1, 1), (7, 33, 31), (15, 64, 384), (33, 100, 70), (65, 385, 513)] {
            let (x, w, dy, bias) = (noise(1, n * i), noise(2, o * i), noise(3, n * o), noise(4, o));
            let packed = isa.pack(&[&w], i, Precision::Bf16);
            let w: Vec<f32> = w.iter().map(|&w| bf16(w)).collect();
            assert!(packed.unpack() == w, "{isa}: unpacked weights");
            let (want_x, want_dy) = (round(&x), round(&dy));
            let (x, dy) = (Mat::row_major(&x, n, i), Mat::row_major(&dy, n, o));
            let want_x = Mat::row_major(&want_x, n, i);
            let want_dy = Mat::row_major(&want_dy, n, o);
            let w = Mat::row_major(&w, o, i);

            let mut y = noise(5, n * o);
            isa.linear(MatMut::row_major(&mut y, n, o), x, &packed, Init::Bias(&bias));
            assert_dense(&y, &bias.repeat(n), want_x, w.t(), &format!("{isa}, forward"));

            let mut dx = noise(6, n * i);
            isa.linear_backward(MatMut::row_major(&mut dx, n, i), dy, &packed, Init::Accumulate);
            assert_dense(&dx, &noise(6, n * i), want_dy, w, &format!("{isa}, backward"));

            let mut dw = noise(7, o * i);
            let c = MatMut::row_major(&mut dw, o, i);
            isa.gemm_in(Precision::Bf16, c, 1.0, dy.t(), x, Init::Zero);
            let (want_x, want_dy) = if is_native { (want_x, want_dy) } else { (x, dy) };
            assert_dense(&dw, &vec![0.0; o * i], want_dy.t(), want_x, &format!("{isa}, dW"));
        }
    }
}

#[test]
fn products_in_int8_are_those_of_rounded_operands() {
    for isa in isas() {
        for (n, o, i) in [(1, 1, 1), (7, 33, 31), (15, 64, 384), (33, 100, 70), (65, 385, 1536)] {
            let (x, w, bias) = (noise(1, n * i), noise(2, o * i), noise(4, o));
            let packed = isa.pack(&[&w], i, Precision::Int8);
            let w = int8_rows(&w, i);
            assert!(packed.unpack() == w, "{isa}: unpacked weights");
            let want_x = if isa.has_native(Precision::Int8) { int8_rows(&x, i) } else { x.clone() };
            let mut y = noise(5, n * o);
            let c = MatMut::row_major(&mut y, n, o);
            isa.linear(c, Mat::row_major(&x, n, i), &packed, Init::Bias(&bias));
            let (x, w) = (Mat::row_major(&want_x, n, i), Mat::row_major(&w, o, i));
            assert_dense(&y, &bias.repeat(n), x, w.t(), &format!("{isa}"));
        }
    }
}

/// Rows as integers within ±127 and the scale of each.
fn int8_integers(x: &[f32], i: usize) -> Vec<(Vec<i32>, f32)> {
    let row = |row: &[f32]| {
        let greatest = row.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        let per_unit = if greatest > 0.0 { 127.0 / greatest } else { 0.0 };
        let integers = row.iter().map(|x| (x * per_unit).round_ties_even() as i32).collect();
        (integers, greatest / 127.0)
    };
    x.chunks(i).map(row).collect()
}

/// Up to 1,536 inputs an int8 product is an exact sum of integers and one multiply-add: every level that multiplies bytes
/// has these bits. Values that are all greatest, of one sign or two, are where 16 bits would overflow.
#[test]
fn int8_products_are_exact_integers_and_one_multiply_add() {
    let shapes = SIZES.iter().flat_map(|&o| SIZES.map(|i| (9, o, i)));
    let shapes = shapes.chain((1..=16).map(|n| (n, 40, 384)));
    let long = [63, 64, 65, 127, 128, 129, 511, 512, 513, 1535, 1536].map(|i| (7, 33, i));
    for isa in Isa::available().into_iter().filter(|isa| isa.has_native(Precision::Int8)) {
        for (n, o, i) in shapes.clone().chain(long).filter(|&(_, o, i)| o > 0 && i > 0) {
            for saturated in [false, true] {
                let (mut x, mut w) = (noise(1, n * i), noise(2, o * i));
                if saturated {
                    // Rows of both signs, one in two, or all of one sign.
                    let extreme = |(at, x): (usize, &mut f32)| {
                        *x = if at / i % 2 == 0 { 1.0 } else { x.signum() };
                    };
                    x.iter_mut().enumerate().for_each(extreme);
                    w.iter_mut().enumerate().for_each(extreme);
                }
                let bias = noise(4, o);
                let packed = isa.pack(&[&w], i, Precision::Int8);
                let mut y = vec![0.0; n * o];
                let c = MatMut::row_major(&mut y, n, o);
                isa.linear(c, Mat::row_major(&x, n, i), &packed, Init::Bias(&bias));
                let (x, w) = (int8_integers(&x, i), int8_integers(&w, i));
                for (at, got) in y.iter().enumerate() {
                    let ((x, x_scale), (w, w_scale)) = (&x[at / o], &w[at % o]);
                    let sum: i32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                    let want = (sum as f32).mul_add(x_scale * w_scale, bias[at % o]);
                    assert_eq!(*got, want, "{isa}, {at} of {n}×{o}, {i} inputs, {saturated}");
                }
            }
        }
    }
}

/// Views that are contiguous in neither direction are gathered before they are rounded.
#[test]
fn int8_products_of_any_view_have_the_bits_of_the_contiguous_one() {
    let (n, o, i) = (9, 40, 70);
    let (wide, w) = (noise(1, 2 * n * i), noise(2, o * i));
    let dense: Vec<f32> = wide.iter().copied().step_by(2).collect();
    let x = Mat::row_major(&dense, n, i);
    let columns: Vec<f32> = (0..n * i).map(|at| x.at(at % n, at / n)).collect();
    for isa in Isa::available() {
        let packed = isa.pack(&[&w], i, Precision::Int8);
        let product = |x: Mat| {
            let mut y = vec![0.0; n * o];
            isa.linear(MatMut::row_major(&mut y, n, o), x, &packed, Init::Zero);
            y
        };
        let want = product(x);
        assert_eq!(product(Mat::strided(&wide, n, i, 2 * i, 2)), want, "{isa}");
        assert_eq!(product(Mat::row_major(&columns, i, n).t()), want, "{isa}");
    }
}

/// Wide layers get a scale per stretch of inputs: at most half a step is lost of each factor.
#[test]
fn int8_products_of_wide_layers_are_within_half_steps() {
    let (n, o, i) = (3, 40, 4100);
    let (x, w) = (noise(1, n * i), noise(2, o * i));
    for isa in isas() {
        let packed = isa.pack(&[&w], i, Precision::Int8);
        let mut y = vec![0.0; n * o];
        isa.linear(MatMut::row_major(&mut y, n, o), Mat::row_major(&x, n, i), &packed, Init::Zero);
        for (at, got) in y.iter().enumerate() {
            let (x, w) = (&x[at / o * i..][..i], &w[at % o * i..][..i]);
            let want: f64 = x.iter().zip(w).map(|(x, w)| f64::from(x * w)).sum();
            let lost: f64 = x.iter().zip(w).map(|(x, w)| f64::from(x.abs() + w.abs())).sum();
            let bound = lost / 254.0 + i as f64 / (254.0 * 254.0);
            assert!((f64::from(*got) - want).abs() <= bound, "{isa}: {got}, not {want}");
        }
    }
}

/// A second product and an epilogue change no bit against calls one after the other.
#[test]
fn an_added_product_and_an_epilogue_have_the_bits_of_separate_calls() {
    let (n, o, i, r) = (45, 150, 400, 24);
    let (x_values, w) = (noise(1, n * i), noise(2, o * i));
    let (bias, dy) = (noise(3, o), noise(7, n * o));
    let (xa, b, a) = (noise(4, n * r), noise(5, r * o), noise(6, r * i));
    let (x, dy) = (Mat::row_major(&x_values, n, i), Mat::row_major(&dy, n, o));
    let (xa, b, a) =
        (Mat::row_major(&xa, n, r), Mat::row_major(&b, r, o), Mat::row_major(&a, r, i));
    let f = Activation::Gelu;
    for isa in isas() {
        for precision in [Precision::F32, Precision::Bf16] {
            let w = isa.pack(&[&w], i, precision);
            let (mut y, mut activated) = (vec![0.0; n * o], vec![0.0; n * o]);
            let mut want = vec![0.0; n * o];
            isa.linear(MatMut::row_major(&mut want, n, o), x, &w, Init::Bias(&bias));
            let c = MatMut::row_major(&mut want, n, o);
            isa.gemm_in(precision, c, 0.5, xa, b, Init::Accumulate);
            let added = Some(Added { alpha: 0.5, a: xa, b });
            let out = MatMut::row_major(&mut activated, n, o);
            let c = MatMut::row_major(&mut y, n, o);
            let epilogue = Epilogue::Activation { f, out };
            isa.linear_with(c, x, &w, Init::Bias(&bias), added, epilogue);
            assert_eq!(y, want, "{isa}, {precision}");
            let mut want_activated = vec![0.0; n * o];
            isa.activation(&mut want_activated, &want, f);
            assert_eq!(activated, want_activated, "{isa}, {precision}");
            let mut finished = want.clone();
            Epilogue::ActivationInPlace(f).finish(isa, MatMut::row_major(&mut finished, n, o));
            assert_eq!(finished, want_activated, "{isa}, {precision}");
            let c = MatMut::row_major(&mut y, n, o);
            let epilogue = Epilogue::ActivationInPlace(f);
            isa.linear_with(c, x, &w, Init::Bias(&bias), added, epilogue);
            assert_eq!(y, want_activated, "{isa}, {precision}");

            let (mut dx, mut want) = (vec![0.0; n * i], vec![0.0; n * i]);
            isa.linear_backward(MatMut::row_major(&mut want, n, i), dy, &w, Init::Zero);
            let c = MatMut::row_major(&mut want, n, i);
            isa.gemm_in(precision, c, 0.5, xa, a, Init::Accumulate);
            isa.activation_backward_in_place(&mut want, &x_values, f);
            let added = Some(Added { alpha: 0.5, a: xa, b: a });
            let c = MatMut::row_major(&mut dx, n, i);
            let epilogue = Epilogue::ActivationBackward { f, x };
            isa.linear_backward_with(c, dy, &w, Init::Zero, added, epilogue);
            assert_eq!(dx, want, "{isa}, {precision}");
        }
    }
}

#[test]
fn stacked_blocks_make_one_weight_and_can_be_packed_anew() {
    let i = 21;
    let blocks = [noise(1, 17 * i), noise(2, 40 * i), noise(3, i)];
    let anew = [noise(4, 17 * i), noise(5, 40 * i), noise(6, i)];
    let slices = |blocks: &[Vec<f32>; 3]| blocks.concat();
    for isa in isas() {
        let mut packed: PackedWeight =
            isa.pack(&[&blocks[0], &blocks[1], &blocks[2]], i, Precision::F32);
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
    for depth in cuts(&[0, 32, 64, 96, 384, 416, 800, k]) {
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
    for isa in isas() {
        // Pieces of a few columns take another way where the left operand is a transposed view.
        for a in [Mat::row_major(&a, m, k), Mat::row_major(&a, k, m).t()] {
            for b in [Mat::row_major(&b, k, n), Mat::row_major(&b, n, k).t()] {
                check_pieces(isa, a, b, 0.7);
            }
        }
    }
}

#[test]
fn rows_have_the_same_bits_alone_and_in_any_batch() {
    // Several blocks of inputs in every precision, and outputs that end within a panel.
    let (n, o, i) = (43, 100, 1_700);
    let (x, w, bias) = (noise(1, n * i), noise(2, o * i), noise(3, o));
    let x = Mat::row_major(&x, n, i);
    let isas = isas().into_iter();
    for (isa, precision) in isas.flat_map(|isa| Precision::ALL.map(|precision| (isa, precision))) {
        let packed = isa.pack(&[&w], i, precision);
        for init in [Init::Zero, Init::Bias(&bias), Init::Accumulate] {
            let product = |rows: Range<usize>| {
                let mut y = vec![0.25; rows.len() * o];
                let y_no = MatMut::row_major(&mut y, rows.len(), o);
                let gelu = Epilogue::ActivationInPlace(Activation::Gelu);
                isa.linear_with(y_no, x.rows(rows), &packed, init, None, gelu);
                y
            };
            let whole = product(0..n);
            // A tile of AMX has 16 rows, its strips 32.
            for n_rows in [1, 2, 7, 15, 16, 17, 32, 33] {
                for first in (0..n).step_by(n_rows) {
                    let rows = first..n.min(first + n_rows);
                    let want = &whole[rows.start * o..rows.end * o];
                    assert_eq!(
                        product(rows.clone()),
                        want,
                        "{isa}, {precision}, {rows:?}, {init:?}"
                    );
                }
            }
        }
    }
}

/// Compares levels with each other, so it runs on all there are whatever `LORIOT_ISA` names.
#[test]
fn fused_levels_agree_to_the_bit() {
    let is_fused = |isa: &Isa| !matches!(isa.level(), Level::Scalar | Level::Amx);
    let fused: Vec<Isa> = Isa::available().into_iter().filter(is_fused).collect();
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
    let w = Isa::best().pack(&[&w], 5, Precision::F32);
    let (x, y) = (Mat::row_major(&x, 3, 4), MatMut::row_major(&mut y, 3, 2));
    Isa::best().linear(y, x, &w, Init::Zero);
}
