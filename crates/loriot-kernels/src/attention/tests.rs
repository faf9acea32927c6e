//! Attention against its reference, alone and in batches.

use super::*;
use crate::dropout::{Site, TextKey};
use crate::reference::attention::Attention;
use crate::testing::{EPSILON, assert_within, greatest, isas, noise, wide};

fn streams(n: u32) -> Vec<Stream> {
    (0..n).map(|row| Stream::new(9, 1, TextKey::query(row), 4, Site::AttentionProbs)).collect()
}

fn offsets(lengths: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    offsets.extend(lengths.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    }));
    offsets
}

/// Both passes on every level against the reference, of sequences end to end.
fn check_against_reference(lengths: &[usize], heads: usize, k: usize, dropout: Option<f32>) {
    let (offsets, d) = (offsets(lengths), heads * k);
    let n = offsets[lengths.len()];
    let streams = streams(lengths.len() as u32);
    let (qkv, dctx) = (noise(3 * d * n + 1, 1), noise(d * n + 1, 2));
    let (qkv, dctx) = (&qkv[1..], &dctx[1..]); // Off the alignment.
    let reference =
        Attention { offsets: &offsets, d, heads, dropout: dropout.map(|p| (p, &streams[..])) };
    let want_ctx = reference.forward(&wide(qkv));
    let want_dqkv = reference.backward(&wide(dctx), &wide(qkv));
    // A score is a sum of k products, off by k·ε of √k at most; a probability by twice that of itself, and by the sum of
    // its row; the second product adds a row's length again. Dropout doubles at most what it keeps.
    let longest = lengths.iter().max().copied().unwrap_or(0) as f64;
    let relative = ((2.0 * k as f64 * (k as f64).sqrt()) + 3.0 * longest + 32.0) * EPSILON;
    let (ctx_bound, dqkv_bound) = (relative * greatest(&want_ctx), relative * greatest(&want_dqkv));
    for isa in isas() {
        let what = format!("{isa}, {heads}×{k}, lengths {lengths:?}, dropout {dropout:?}");
        let dropout = dropout.map(|p| AttentionDropout { p, streams_b: &streams });
        let mut scratch = AttentionScratch::new();
        let (mut ctx, mut dqkv) = (vec![f32::NAN; d * n], vec![f32::NAN; 3 * d * n]);
        isa.attention(&mut ctx, qkv, &offsets, heads, dropout, &mut scratch);
        isa.attention_backward(&mut dqkv, dctx, qkv, &offsets, heads, dropout, &mut scratch);
        assert_within(&ctx, &want_ctx, |_| ctx_bound, &what);
        assert_within(&dqkv, &want_dqkv, |_| dqkv_bound, &what);
    }
}

#[test]
fn every_short_length_matches_reference_on_every_isa() {
    for len in 1..=40 {
        for (heads, k) in [(2, 8), (2, 5)] {
            check_against_reference(&[len], heads, k, None);
            check_against_reference(&[len], heads, k, Some(0.1));
        }
    }
}

#[test]
fn the_shapes_of_minilm_and_e5_match_reference_on_every_isa() {
    for (heads, k) in [(12, 32), (16, 64)] {
        check_against_reference(&[20, 1, 6, 33, 17], heads, k, None);
        check_against_reference(&[20, 1, 6, 33, 17], heads, k, Some(0.1));
    }
}

#[test]
fn every_width_of_a_head_matches_reference_on_every_isa() {
    for k in 1..=70 {
        check_against_reference(&[9, 18], 1, k, Some(0.2));
    }
}

#[test]
fn long_sequences_match_reference_on_every_isa() {
    for len in [70, 128, 300] {
        check_against_reference(&[len], 2, 32, None);
        check_against_reference(&[len, 3], 1, 64, Some(0.1));
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_a_batch() {
    let lengths = [20, 1, 7, 130, 33];
    let (heads, k) = (3, 32);
    let (offsets, d, n) = (offsets(&lengths), heads * k, 191);
    let (qkv, dctx, streams) = (noise(3 * d * n, 1), noise(d * n, 2), streams(5));
    for isa in isas() {
        let mut scratch = AttentionScratch::new();
        let (mut ctx, mut dqkv) = (vec![0.0; d * n], vec![0.0; 3 * d * n]);
        let dropout = Some(AttentionDropout { p: 0.1, streams_b: &streams });
        isa.attention(&mut ctx, &qkv, &offsets, heads, dropout, &mut scratch);
        isa.attention_backward(&mut dqkv, &dctx, &qkv, &offsets, heads, dropout, &mut scratch);
        for b in 0..lengths.len() {
            let (start, end) = (offsets[b], offsets[b + 1]);
            let (qkv, dctx) = (&qkv[3 * d * start..3 * d * end], &dctx[d * start..d * end]);
            let (mut ctx_alone, mut dqkv_alone) = (vec![0.0; dctx.len()], vec![0.0; qkv.len()]);
            let dropout = Some(AttentionDropout { p: 0.1, streams_b: &streams[b..][..1] });
            // A part of the offsets, which does not begin at 0, and scratch that has seen other sequences.
            let pair = &offsets[b..][..2];
            isa.attention(&mut ctx_alone, qkv, pair, heads, dropout, &mut scratch);
            let outs = (&mut dqkv_alone, &mut scratch);
            isa.attention_backward(outs.0, dctx, qkv, pair, heads, dropout, outs.1);
            assert_eq!(ctx_alone, ctx[d * start..d * end], "{isa}, sequence {b}");
            assert_eq!(dqkv_alone, dqkv[3 * d * start..3 * d * end], "{isa}, sequence {b}");
        }
    }
}

#[test]
fn no_tokens_and_empty_sequences_are_left_alone() {
    for isa in isas() {
        let mut scratch = AttentionScratch::new();
        isa.attention(&mut [], &[], &[0], 2, None, &mut scratch);
        isa.attention(&mut [], &[], &[0, 0], 2, None, &mut scratch);
        let (mut ctx, qkv) = ([7.0; 4], noise(12, 1));
        isa.attention(&mut ctx, &qkv, &[0, 0, 1, 1], 2, None, &mut scratch);
        assert_eq!(ctx, qkv[8..], "a token that sees only itself is its value, {isa}");
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let qkv = [300.0, 300.0, 1.0, -300.0, 300.0, 2.0];
    for isa in isas() {
        let mut ctx = [7.0; 2];
        isa.attention(&mut ctx, &qkv, &[0, 2], 1, None, &mut AttentionScratch::new());
        assert_eq!(ctx[0], 1.5, "equal keys share the query, {isa}");
    }
}

#[test]
#[should_panic(expected = "one stream per sequence")]
fn a_missing_stream_panics() {
    let dropout = Some(AttentionDropout { p: 0.1, streams_b: &[] });
    let mut scratch = AttentionScratch::new();
    Isa::best().attention(&mut [0.0; 2], &[0.0; 6], &[0, 1], 1, dropout, &mut scratch);
}
