//! The order of the stages that cut a row: by profile, this sampler's own or that of another.

/// Whose order of cuts a row has, and whose rules for equal logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// This sampler's own.
    #[default]
    Logitd,
    /// Hugging Face transformers.
    Hf,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp.
    Llamacpp,
}

/// A cut, of what the ones before it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Within so many standard deviations.
    TopNSigma,
    /// So many first tokens.
    TopK,
    /// The first tokens with a share of the mass.
    TopP,
    /// At least so likely relative to the first.
    MinP,
    /// The first tokens with a share of the entropy.
    TopH,
    /// At least so likely relative to the square of the first.
    TopA,
    /// At least so likely.
    Epsilon,
    /// At least so likely, or less where the entropy is high.
    Eta,
    /// A share of the mass around the mean surprisal.
    Typical,
    /// Up to a surprisal.
    Mirostat,
    /// Less the likely ones, now and then.
    Xtc,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 5] = [Self::Logitd, Self::Hf, Self::Vllm, Self::Sglang, Self::Llamacpp];

    /// The name used by flags and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logitd => "logitd",
            Self::Hf => "hf",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Llamacpp => "llamacpp",
        }
    }

    /// The profile of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Its stages, in order. (Adaptive-p, which cuts nothing, is after all of them.)
    pub const fn stages(self) -> &'static [Stage] {
        match self {
            Self::Logitd => &[
                Stage::TopNSigma,
                Stage::TopK,
                Stage::TopP,
                Stage::MinP,
                Stage::TopH,
                Stage::TopA,
                Stage::Epsilon,
                Stage::Eta,
                Stage::Typical,
                Stage::Mirostat,
                Stage::Xtc,
            ],
            Self::Hf => &[
                Stage::TopH,
                Stage::TopK,
                Stage::TopP,
                Stage::MinP,
                Stage::Typical,
                Stage::Epsilon,
                Stage::Eta,
            ],
            Self::Vllm => &[Stage::MinP, Stage::TopK, Stage::TopP],
            Self::Sglang => &[Stage::TopK, Stage::TopP, Stage::MinP],
            Self::Llamacpp => &[
                Stage::TopNSigma,
                Stage::TopK,
                Stage::Typical,
                Stage::TopP,
                Stage::MinP,
                Stage::Xtc,
            ],
        }
    }

    /// Whether a stage keeps tokens equal to the last that it keeps otherwise. Of [`Stage::Epsilon`] and [`Stage::Eta`]:
    /// equal to the first.
    pub const fn keeps_ties(self, stage: Stage) -> bool {
        match stage {
            Stage::TopK => matches!(self, Self::Hf | Self::Vllm | Self::Sglang),
            Stage::TopP => matches!(self, Self::Sglang),
            Stage::Epsilon | Stage::Eta => matches!(self, Self::Hf),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stage_comes_twice() {
        for profile in Profile::ALL {
            let stages = profile.stages();
            let twice = (1..stages.len()).find(|&i| stages[..i].contains(&stages[i]));
            assert_eq!(twice, None, "{}", profile.name());
            assert_eq!(Profile::named(profile.name()), Some(profile));
        }
    }
}
