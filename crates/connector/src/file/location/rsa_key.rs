//! RSA keys of users. The SSH library knows them only with a crate whose timing tells of the key (RUSTSEC-2023-0071), so ring signs.

use matome_model::field_error::Words;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair, KeyPairComponents, PublicKeyComponents};
use ring::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512};
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::Mpint;
use russh::keys::ssh_key::private::{KeypairData, RsaKeypair};
use russh::keys::ssh_key::public::{KeyData, RsaPublicKey};
use russh::keys::{HashAlg, PrivateKey, PublicKey};
use russh::{SendError, Signer};

use crate::jwt::pem;

/// An RSA key that signs.
pub(super) struct RsaKey(KeyPair);

impl RsaKey {
    /// The key of a text that is an RSA key in PEM; none of others.
    pub(super) fn of_pem(text: &str) -> Option<Result<Self, Words>> {
        let (label, der) = pem(text)?;
        match label {
            "RSA PRIVATE KEY" => Some(KeyPair::from_der(&der).map(Self).map_err(|_| too_weak())),
            "PRIVATE KEY" => KeyPair::from_pkcs8(&der).ok().map(|pair| Ok(Self(pair))),
            _ => None,
        }
    }

    /// The same of a key in the format of OpenSSH.
    pub(super) fn of(key: &PrivateKey) -> Option<Result<Self, Words>> {
        let KeypairData::Rsa(pair) = key.key_data() else { return None };
        Some(read(pair).map(Self).ok_or_else(too_weak))
    }

    /// What the server knows it by.
    pub(super) fn public(&self) -> Option<PublicKey> {
        let PublicKeyComponents::<Vec<u8>> { n, e } = self.0.public().into();
        let key = RsaPublicKey::new(Mpint::from_positive_bytes(&e), Mpint::from_positive_bytes(&n)).ok()?;
        Some(PublicKey::new(KeyData::Rsa(key), ""))
    }
}

fn too_weak() -> Words {
    Words::new(
        "It is no RSA key that is safe to use: 2,048 to 4,096 bits, not encrypted unless in the format of OpenSSH (`ssh-keygen -p -f FILE` makes that). Or make another one: `ssh-keygen -t ed25519`.",
        "安全に使える RSA の鍵ではありません: 2,048 から 4,096 ビットで、OpenSSH 形式 (`ssh-keygen -p -f ファイル` で変換できます) でなければ暗号化されていないもの。`ssh-keygen -t ed25519` で作り直すこともできます。",
    )
}

/// ring wants two numbers more than the format of OpenSSH has.
fn read(pair: &RsaKeypair) -> Option<KeyPair> {
    let (public, private) = (pair.public(), pair.private());
    let bytes = |number: &'_ Mpint| number.as_positive_bytes().map(<[u8]>::to_vec);
    let (d, p, q) = (bytes(private.d())?, bytes(private.p())?, bytes(private.q())?);
    let (d_p, d_q) = (remainder(&d, &less_one(&p)?), remainder(&d, &less_one(&q)?));
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n: bytes(public.n())?, e: bytes(public.e())? },
        d,
        p,
        q,
        dP: d_p,
        dQ: d_q,
        qInv: bytes(private.iqmp())?,
    };
    KeyPair::from_components(&components).ok()
}

/// An odd number less one; all of these are big-endian.
fn less_one(odd: &[u8]) -> Option<Vec<u8>> {
    let mut even = odd.to_vec();
    let last = even.last_mut().filter(|last| **last % 2 == 1)?;
    *last -= 1;
    Some(even)
}

/// What is left of `number` by `divisor`, bit by bit, without zeros before it.
fn remainder(number: &[u8], divisor: &[u8]) -> Vec<u8> {
    // One byte more, for the bit that is shifted in.
    let divisor = [&[0], divisor].concat();
    let mut left = vec![0; divisor.len()];
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| (byte >> at) & 1)) {
        let mut carry = bit;
        for byte in left.iter_mut().rev() {
            (*byte, carry) = ((*byte << 1) | carry, *byte >> 7);
        }
        if left >= divisor {
            let mut borrow = false;
            for (byte, less) in left.iter_mut().zip(&divisor).rev() {
                let (first, one) = byte.overflowing_sub(*less);
                let (second, two) = first.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (second, one || two);
            }
        }
    }
    let zeros = left.iter().take_while(|byte| **byte == 0).count();
    left.split_off(zeros)
}

/// Why nothing was signed.
pub(super) enum Unsigned {
    /// The connection ended.
    Lost,
    /// The key can not sign.
    Key,
}

impl From<SendError> for Unsigned {
    fn from(_: SendError) -> Self {
        Self::Lost
    }
}

impl Signer for RsaKey {
    type Error = Unsigned;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Unsigned> {
        let (name, algorithm) = match hash {
            Some(HashAlg::Sha512) => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
            _ => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
        };
        let mut signature = vec![0; self.0.public().modulus_len()];
        let signed = self.0.sign(algorithm, &SystemRandom::new(), &to_sign, &mut signature);
        signed.map_err(|_| Unsigned::Key)?;
        // The name and the signature, each behind its length, as one field behind what is signed (RFC 8332, section 3.2).
        let mut field = Vec::new();
        let encoded = name.encode(&mut field).and_then(|()| signature.as_slice().encode(&mut field));
        let mut data = to_sign;
        encoded.and_then(|()| field.as_slice().encode(&mut data)).map_err(|_| Unsigned::Key)?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_those_of_division() {
        for (number, divisor) in
            [(7_u64, 3_u64), (0, 5), (255, 256), (1 << 40, 12_345), (u64::MAX, 65_521), (65_521, 65_521)]
        {
            let bytes = |number: u64| number.to_be_bytes();
            let left = remainder(&bytes(number), &bytes(divisor));
            let left = left.iter().fold(0, |all, byte| (all << 8) | u64::from(*byte));
            assert_eq!(left, number % divisor, "{number} by {divisor}");
        }
        assert_eq!(less_one(&[1, 0]), None);
        assert_eq!(less_one(&[1, 1]), Some(vec![1, 0]));
    }
}
