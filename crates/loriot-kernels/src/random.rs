//! SplitMix64 (Steele, Lea and Flood, 2014): 64-bit random numbers from a counter.
//!
//! For shuffles, fresh adapters and tests. Dropout has a generator of its own, [`crate::dropout`].
//! Whatever is drawn here decides the bytes of a training run, so nothing here may change.

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The stream that begins after `state`.
    pub fn new(state: u64) -> SplitMix64 {
        SplitMix64 { state }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        mix(self.state)
    }

    /// A number in `0..bound`, each as likely as any other (Lemire's multiplication, 2019).
    pub fn below(&mut self, bound: u64) -> u64 {
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            // The low half below 2^64 mod bound marks the draws that would favour small numbers.
            if product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

/// SplitMix64's output function: a bijection; a change of one input bit changes half of the output's.
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_numbers_of_its_authors() {
        let mut random = SplitMix64::new(1_234_567);
        let got = [random.next_u64(), random.next_u64()];
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn each_number_below_a_bound_comes_about_equally_often() {
        let (mut random, mut n_drawn) = (SplitMix64::new(7), [0_i32; 5]);
        (0..5_000).for_each(|_| n_drawn[random.below(5) as usize] += 1);
        // Five standard deviations of a binomial of 5,000 and 1/5 are 141.
        assert!(n_drawn.iter().all(|n| (n - 1_000).abs() < 142), "{n_drawn:?}");
    }
}
