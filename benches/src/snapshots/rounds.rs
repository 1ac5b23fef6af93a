//! What is held against each other is measured in turn.

use super::volumes::median;

/// Values of each volume, a round at a time: a machine that others use is as slow for all of one round.
pub struct Rounds(Vec<Vec<f64>>);

impl Rounds {
    pub fn new(names: &[String]) -> Rounds {
        Rounds(vec![Vec::new(); names.len()])
    }

    pub fn add(&mut self, names: &[String], mut one: impl FnMut(&String) -> Result<f64, String>) -> Result<(), String> {
        // Every other round backwards: what grows or fades meanwhile is nobody's advantage.
        let backwards = self.0[0].len() % 2 == 1;
        let mut order: Vec<usize> = (0..names.len()).collect();
        if backwards {
            order.reverse();
        }
        for at in order {
            let value = one(&names[at])?;
            self.0[at].push(value);
        }
        Ok(())
    }

    pub fn median(&self, at: usize) -> f64 {
        median(self.0[at].clone())
    }

    /// The median of what it was against the first one in the same round.
    pub fn to_first(&self, at: usize) -> f64 {
        median(self.0[at].iter().zip(&self.0[0]).map(|(own, first)| own / first.max(1e-9)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_was_slow_for_all_counts_as_any_other() {
        let names = ["a".to_string(), "b".to_string()];
        let mut rounds = Rounds::new(&names);
        let mut order = Vec::new();
        for slow in [1.0, 10.0, 1.0] {
            rounds
                .add(&names, |name| {
                    order.push(name.clone());
                    Ok(if name == "a" { slow } else { 1.5 * slow })
                })
                .unwrap();
        }
        assert_eq!(order, ["a", "b", "b", "a", "a", "b"]);
        assert_eq!((rounds.median(0), rounds.to_first(0), rounds.to_first(1)), (1.0, 1.0, 1.5));
    }
}
