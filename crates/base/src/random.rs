/// A source of unpredictable bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Random + '_ {
    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

/// The cryptographic generator of AWS-LC, seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl SystemRandom {
    /// `N` random bytes.
    pub fn bytes<const N: usize>() -> [u8; N] {
        let mut bytes = [0; N];
        Self.fill(&mut bytes);
        bytes
    }
}

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        // AWS-LC aborts or fails only when the operating system has no entropy at all. Going on without
        // randomness would be worse than stopping, and no outside input can lead here.
        #[expect(clippy::expect_used, reason = "no safe way to go on without randomness")]
        aws_lc_rs::rand::fill(bytes).expect("the operating system gives random bytes");
    }
}
