//! Markov chains in continuous time with one absorbing state, the loss.
//!
//! Rates of failure and repair differ by many orders of magnitude, and what is asked for is their
//! tiny product. So nothing here subtracts: states are eliminated one by one as Grassmann, Taksar
//! and Heyman do ("Regenerative analysis and steady state distributions for Markov chains",
//! Operations Research 33, 1985), and transition probabilities come from uniformisation (Jensen,
//! 1953) and squaring. All terms are positive, so every result is right to many digits.

/// Terms of the exponential series: more than doubles can tell apart for a step of at most 1.
const SERIES_TERMS: usize = 30;

/// A chain; it starts in state 0.
#[derive(Clone, Debug)]
pub struct Chain {
    /// `rates[i][j]`: how often an hour state `i` goes to state `j`.
    rates: Vec<Vec<f64>>,
    /// How often an hour each state goes to the loss.
    losses: Vec<f64>,
}

impl Chain {
    /// A chain of that many states without any transition.
    pub fn new(states: usize) -> Chain {
        assert!(states > 0, "it starts somewhere");
        Chain {
            rates: vec![vec![0.0; states]; states],
            losses: vec![0.0; states],
        }
    }

    /// Adds a transition, so often an hour.
    pub fn add(&mut self, from: usize, to: usize, rate: f64) {
        assert!(from != to && rate >= 0.0, "a transition goes elsewhere");
        self.rates[from][to] += rate;
    }

    /// Adds a transition to the loss, so often an hour.
    pub fn add_loss(&mut self, from: usize, rate: f64) {
        assert!(rate >= 0.0, "a rate is not negative");
        self.losses[from] += rate;
    }

    /// Hours until the loss, on average; infinite if there is no way to it.
    pub fn mean_hours(&self) -> f64 {
        self.weighed_hours(&vec![1.0; self.losses.len()])
    }

    /// Share of the time before the loss that is spent in other states than the first.
    pub fn away_share(&self) -> f64 {
        let mut away = vec![1.0; self.losses.len()];
        away[0] = 0.0;
        let (away, all) = (self.weighed_hours(&away), self.mean_hours());
        if all.is_finite() { away / all } else { 0.0 }
    }

    /// Hours until the loss, on average, an hour in state `i` counting `weights[i]`.
    fn weighed_hours(&self, weights: &[f64]) -> f64 {
        let (mut rates, mut losses) = (self.rates.clone(), self.losses.clone());
        let mut weights = weights.to_vec();
        // State by state is replaced by what it comes to for those that lead there.
        for last in (1..losses.len()).rev() {
            let out = losses[last] + rates[last][..last].iter().sum::<f64>();
            for i in (0..last).filter(|_| out > 0.0) {
                let share = rates[i][last] / out;
                weights[i] += share * weights[last];
                losses[i] += share * losses[last];
                for j in (0..last).filter(|j| *j != i) {
                    rates[i][j] += share * rates[last][j];
                }
            }
        }
        weights[0] / losses[0]
    }

    /// The chance that the loss comes within so many hours.
    pub fn loss_within(&self, hours: f64) -> f64 {
        let states = self.losses.len();
        let out = |i: usize| self.losses[i] + self.rates[i].iter().sum::<f64>();
        let fastest = (0..states).map(out).fold(0.0, f64::max);
        if fastest * hours == 0.0 {
            return 0.0;
        }
        let doublings = (fastest * hours).log2().ceil().max(0.0) as u32;
        let step = fastest * hours / 2f64.powi(doublings as i32);
        let mut jump = Jump::nothing(states);
        for i in 0..states {
            jump.lost[i] = self.losses[i] / fastest;
            for j in 0..states {
                jump.stay[i][j] = self.rates[i][j] / fastest;
            }
            jump.stay[i][i] = 1.0 - out(i) / fastest;
        }
        let mut result = jump.poisson(step);
        for _ in 0..doublings {
            result = result.then(&result);
        }
        result.lost[0].min(1.0)
    }
}

/// Where a chain is some time later: probabilities from each state to each, and to the loss.
#[derive(Clone)]
struct Jump {
    stay: Vec<Vec<f64>>,
    lost: Vec<f64>,
}

impl Jump {
    fn nothing(states: usize) -> Jump {
        Jump {
            stay: vec![vec![0.0; states]; states],
            lost: vec![0.0; states],
        }
    }

    /// This one, and then `next`.
    fn then(&self, next: &Jump) -> Jump {
        let states = self.lost.len();
        let mut both = Jump::nothing(states);
        for i in 0..states {
            both.lost[i] = self.lost[i];
            for via in 0..states {
                both.lost[i] += self.stay[i][via] * next.lost[via];
                for j in 0..states {
                    both.stay[i][j] += self.stay[i][via] * next.stay[via][j];
                }
            }
        }
        both
    }

    /// A number of such jumps that has the Poisson distribution with this mean.
    fn poisson(&self, mean: f64) -> Jump {
        let states = self.lost.len();
        let mut jumps = Jump::nothing(states);
        (0..states).for_each(|i| jumps.stay[i][i] = 1.0);
        let mut all = Jump::nothing(states);
        let mut weight = (-mean).exp();
        for count in 1..=SERIES_TERMS {
            for i in 0..states {
                all.lost[i] += weight * jumps.lost[i];
                for j in 0..states {
                    all.stay[i][j] += weight * jumps.stay[i][j];
                }
            }
            jumps = jumps.then(self);
            weight *= mean / count as f64;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: f64, expected: f64, tolerance: f64) {
        let error = (found / expected - 1.0).abs();
        assert!(error < tolerance, "{found} is not {expected}: {error:e}");
    }

    #[test]
    fn one_state_lives_exponentially() {
        let mut chain = Chain::new(1);
        chain.add_loss(0, 1e-4);
        assert_close(chain.mean_hours(), 1e4, 1e-14);
        for hours in [1e-3, 1.0, 1e4, 1e5] {
            let expected = -f64::exp_m1(-1e-4 * hours);
            assert_close(chain.loss_within(hours), expected, 1e-11);
        }
        assert_eq!(chain.loss_within(0.0), 0.0);
    }

    #[test]
    fn two_states_match_their_closed_form() {
        // Mean: (a + b + c) / (a c). Loss: by the two eigenvalues of the chain.
        let (a, b, c): (f64, f64, f64) = (3e-3, 0.2, 5e-3);
        let mut chain = Chain::new(2);
        chain.add(0, 1, a);
        chain.add(1, 0, b);
        chain.add_loss(1, c);
        assert_close(chain.mean_hours(), (a + b + c) / (a * c), 1e-14);
        let sum = a + b + c;
        let root = (sum * sum - 4.0 * a * c).sqrt();
        let (slow, fast) = ((sum - root) / 2.0, (sum + root) / 2.0);
        for hours in [1.0, 100.0, 1e4, 1e5] {
            let alive =
                (fast * (-slow * hours).exp() - slow * (-fast * hours).exp()) / (fast - slow);
            assert_close(chain.loss_within(hours), 1.0 - alive, 1e-9);
        }
        let away = a / (a + b + c); // (1/c) / mean
        assert_close(chain.away_share(), away, 1e-14);
    }

    #[test]
    fn tiny_chances_keep_their_digits() {
        // Three jumps in a row, each very unlikely: t^3/6 times the rates.
        let rate = 1e-9;
        let mut chain = Chain::new(3);
        chain.add(0, 1, rate);
        chain.add(1, 2, rate);
        chain.add_loss(2, rate);
        assert_close(chain.loss_within(1.0), rate.powi(3) / 6.0, 1e-8);
        assert_close(chain.mean_hours(), 3e9, 1e-14);
    }

    #[test]
    fn without_a_way_to_the_loss_it_never_comes() {
        let mut chain = Chain::new(2);
        chain.add(0, 1, 1.0);
        chain.add(1, 0, 1.0);
        assert_eq!(chain.mean_hours(), f64::INFINITY);
        assert_eq!(chain.loss_within(1e6), 0.0);
        assert_eq!(chain.away_share(), 0.0);
    }
}
