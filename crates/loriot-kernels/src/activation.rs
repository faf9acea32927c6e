//! Activation functions of the feed-forward layers, and their derivatives.

use crate::Isa;
use crate::isa::dispatch;
use crate::lanes::pieces::{GELU_SLOPE, NORMAL, Pieces, PiecesIn, TANH, TANH_SLOPE};
use crate::lanes::{Lanes, Vector, inlined, map, map_2, update, update_with};

/// The function between the two linear layers of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)`, `Φ(x) = (1 + erf(x/√2)) / 2`: Hendrycks and Gimpel 2016; `torch.nn.GELU()`, `gelu` in config.json.
    Gelu,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`: `torch.nn.GELU("tanh")`, `gelu_new` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Isa {
    /// `y = f(x)`.
    pub fn activation(self, y: &mut [f32], x: &[f32], activation: Activation) {
        dispatch!(self, activation_body(y: &mut [f32], x: &[f32], activation: Activation))
    }

    /// [`Isa::activation`] in place: `y` overwrites `x`.
    pub fn activation_in_place(self, x: &mut [f32], activation: Activation) {
        dispatch!(self, activation_in_place_body(x: &mut [f32], activation: Activation))
    }

    /// `dx = dy·f'(x)`.
    pub fn activation_backward(
        self,
        dx: &mut [f32],
        dy: &[f32],
        x: &[f32],
        activation: Activation,
    ) {
        dispatch!(self, activation_backward_body(
            dx: &mut [f32], dy: &[f32], x: &[f32], activation: Activation,
        ))
    }

    /// [`Isa::activation_backward`] in place: `dx` overwrites `dy`.
    pub fn activation_backward_in_place(self, dy: &mut [f32], x: &[f32], activation: Activation) {
        dispatch!(self, activation_backward_in_place_body(
            dy: &mut [f32], x: &[f32], activation: Activation,
        ))
    }
}

impl Activation {
    /// The tables of `f(x)/x − 1` and of `f'(x) − 1/2`, for the functions that have them.
    fn pieces(self) -> Option<[&'static Pieces; 2]> {
        match self {
            Activation::Gelu => Some([&NORMAL, &GELU_SLOPE]),
            Activation::GeluTanh => Some([&TANH, &TANH_SLOPE]),
            Activation::Relu => None,
        }
    }
}

#[inline(always)]
pub(crate) fn activation_body<L: Lanes>(y: &mut [f32], x: &[f32], activation: Activation) {
    let lanes = L::here();
    if let Some([value, _]) = activation.pieces() {
        let value = PiecesIn::new(lanes, value);
        map(lanes, y, x, inlined!(|x| gelu(lanes, value, x)));
    } else {
        map(lanes, y, x, inlined!(|x| relu(lanes, x)));
    }
}

#[inline(always)]
pub(crate) fn activation_in_place_body<L: Lanes>(x: &mut [f32], activation: Activation) {
    let lanes = L::here();
    if let Some([value, _]) = activation.pieces() {
        let value = PiecesIn::new(lanes, value);
        update(lanes, x, inlined!(|x| gelu(lanes, value, x)));
    } else {
        update(lanes, x, inlined!(|x| relu(lanes, x)));
    }
}

#[inline(always)]
fn activation_backward_body<L: Lanes>(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    activation: Activation,
) {
    let lanes = L::here();
    if let Some([_, slope]) = activation.pieces() {
        let slope = PiecesIn::new(lanes, slope);
        map_2(lanes, dx, dy, x, inlined!(|dy, x| gelu_backward(lanes, slope, dy, x)));
    } else {
        map_2(lanes, dx, dy, x, inlined!(|dy, x| relu_backward(lanes, dy, x)));
    }
}

#[inline(always)]
pub(crate) fn activation_backward_in_place_body<L: Lanes>(
    dy: &mut [f32],
    x: &[f32],
    activation: Activation,
) {
    let lanes = L::here();
    if let Some([_, slope]) = activation.pieces() {
        let slope = PiecesIn::new(lanes, slope);
        update_with(lanes, dy, x, inlined!(|dy, x| gelu_backward(lanes, slope, dy, x)));
    } else {
        update_with(lanes, dy, x, inlined!(|dy, x| relu_backward(lanes, dy, x)));
    }
}

/// `max(x, 0) + |x|·value(|x|)`, as `f(x)/x` of `x` and of `−x` add up to 1.
#[inline(always)]
fn gelu<L: Lanes>(lanes: L, value: PiecesIn<L>, x: L::F32) -> L::F32 {
    let distance = value.distance(x);
    distance.mul_add(value.at(distance), lanes.splat(0.0).max(x))
}

/// `dy·(1/2 ± slope(|x|))`.
#[inline(always)]
fn gelu_backward<L: Lanes>(lanes: L, slope: PiecesIn<L>, dy: L::F32, x: L::F32) -> L::F32 {
    let slope = slope.at(slope.distance(x)).with_sign_of(x);
    dy.mul_add(slope, dy * lanes.splat(0.5))
}

#[inline(always)]
fn relu<L: Lanes>(lanes: L, x: L::F32) -> L::F32 {
    let zero = lanes.splat(0.0);
    x.if_less(zero, zero, x)
}

#[inline(always)]
fn relu_backward<L: Lanes>(lanes: L, dy: L::F32, x: L::F32) -> L::F32 {
    let zero = lanes.splat(0.0);
    zero.if_less(x, dy, zero)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::activation as reference;
    use crate::testing::{EPSILON, assert_within, isas, noise, wide};

    const ALL: [Activation; 3] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu];

    #[test]
    fn activations_match_reference_at_every_length_on_every_isa() {
        for len in 0..=130 {
            // Off the alignment, in -8..8.
            let x: Vec<f32> = noise(len + 1, 1)[1..].iter().map(|x| 8.0 * x).collect();
            let dy = &noise(len + 1, 2)[1..];
            for (isa, f) in isas().into_iter().flat_map(|isa| ALL.map(|f| (isa, f))) {
                let what = format!("{isa}, {f:?}, length {len}");
                let want: Vec<f64> =
                    wide(&x).iter().map(|x| reference::activation(*x, f)).collect();
                let mut y = vec![7.0; len];
                isa.activation(&mut y, &x, f);
                // The factor of x is within 1e-7, about ε, and rounded with it.
                assert_within(&y, &want, |i| 3.0 * EPSILON * f64::from(x[i].abs()), &what);
                let mut in_place = x.clone();
                isa.activation_in_place(&mut in_place, f);
                assert_eq!(in_place, y, "{what}");

                let slope = wide(&x).into_iter().map(|x| reference::activation_derivative(x, f));
                let want: Vec<f64> = slope.zip(dy).map(|(df, dy)| df * f64::from(*dy)).collect();
                let mut dx = vec![7.0; len];
                isa.activation_backward(&mut dx, dy, &x, f);
                // The slope is within 1.2e-7, about ε, and rounded with dy.
                assert_within(&dx, &want, |i| 3.0 * EPSILON * f64::from(dy[i].abs()), &what);
                let mut in_place = dy.to_vec();
                isa.activation_backward_in_place(&mut in_place, &x, f);
                assert_eq!(in_place, dx, "{what}");
            }
        }
    }

    #[test]
    fn far_out_an_activation_is_zero_or_the_identity_and_its_slope_zero_or_one() {
        let x = [-1e30, -200.0, -30.0, 30.0, 200.0, 1e15];
        for (isa, f) in isas().into_iter().flat_map(|isa| ALL.map(|f| (isa, f))) {
            let (mut y, mut slope) = ([7.0; 6], [7.0; 6]);
            isa.activation(&mut y, &x, f);
            isa.activation_backward(&mut slope, &[1.0; 6], &x, f);
            assert_eq!(y, [0.0, 0.0, 0.0, 30.0, 200.0, 1e15], "{isa}, {f:?}");
            assert_eq!(slope, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], "{isa}, {f:?}");
        }
    }

    #[test]
    fn nan_stays_nan() {
        for (isa, f) in isas().into_iter().flat_map(|isa| ALL.map(|f| (isa, f))) {
            let mut y = [7.0];
            isa.activation(&mut y, &[f32::NAN], f);
            assert!(y[0].is_nan(), "{isa}, {f:?}");
        }
    }
}
