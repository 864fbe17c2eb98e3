//! AMD's products as their keys know them: names, roots, CPUID and the layout of a TCB version.
//!
//! *Takes* names in certificates, CPUID values, the eight bytes of a TCB version. *Gives* [`Product`], [`SigningKey`],
//! [`Tcb`]. *Denies* nothing itself. *Source*: AMD 57230 §3.1 (names), §3.2 (TCB); AMD 56860 Table 3 (TCB_VERSION).

use serde::{Deserialize, Serialize};
use std::fmt;

/// A line of processors under one AMD root key. Siena and Bergamo have Genoa's roots and count as Genoa.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// Zen 3.
    Milan,
    /// Zen 4 and 4c: Genoa, Siena, Bergamo.
    Genoa,
    /// Zen 5.
    Turin,
}

impl Product {
    /// Each of them.
    pub const ALL: [Product; 3] = [Product::Milan, Product::Genoa, Product::Turin];

    /// The name in AMD's certificates and in the addresses of its key distribution service.
    pub fn name(self) -> &'static str {
        match self {
            Product::Milan => "Milan",
            Product::Genoa => "Genoa",
            Product::Turin => "Turin",
        }
    }

    /// The product of that name, letter for letter.
    pub fn of_name(name: &str) -> Option<Product> {
        Product::ALL.into_iter().find(|product| product.name() == name)
    }

    /// The product that CPUID says, with family and model as a report has them: combined with their extensions.
    pub fn of_cpuid(family: u8, model: u8) -> Option<Product> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Product::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Product::Genoa),
            (0x1a, 0x00..=0x11) => Some(Product::Turin),
            _ => None,
        }
    }

    /// Whether a certificate of this product may have that `productName`: the product's own or one under its roots, with or
    /// without a stepping (`Milan-B0`; KDS leaves Genoa's out).
    pub fn is_called(self, product_name: &str) -> bool {
        let line = product_name.split_once('-').map_or(product_name, |(line, _)| line);
        match self {
            Product::Milan => line == "Milan",
            Product::Genoa => matches!(line, "Genoa" | "Siena" | "Bergamo"),
            Product::Turin => line == "Turin",
        }
    }

    /// How many bytes of CHIP_ID name the chip; all after them are zero.
    pub fn chip_id_bytes(self) -> usize {
        match self {
            Product::Milan | Product::Genoa => 64,
            Product::Turin => 8,
        }
    }
}

/// What a report says it is signed with (AMD 56860, SIGNING_KEY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SigningKey {
    /// Versioned chip endorsement key: of one chip at one TCB.
    Vcek,
    /// Versioned loaded endorsement key: of one cloud provider's machines at one TCB.
    Vlek,
}

impl SigningKey {
    /// Both.
    pub const ALL: [SigningKey; 2] = [SigningKey::Vcek, SigningKey::Vlek];

    /// The word in the addresses of AMD's key distribution service.
    pub fn name(self) -> &'static str {
        match self {
            SigningKey::Vcek => "vcek",
            SigningKey::Vlek => "vlek",
        }
    }

    /// The common name of such a certificate's subject.
    pub(super) fn subject_name(self) -> &'static str {
        match self {
            SigningKey::Vcek => "SEV-VCEK",
            SigningKey::Vlek => "SEV-VLEK",
        }
    }

    /// The common name of its issuer: the ASK or the ASVK of the product.
    pub(super) fn issuer_name(self, product: Product) -> String {
        match self {
            SigningKey::Vcek => format!("SEV-{}", product.name()),
            SigningKey::Vlek => format!("SEV-VLEK-{}", product.name()),
        }
    }
}

/// A TCB version, taken apart: the security patch level of each component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcb {
    /// Of the firmware that measures the boot loader; on Turin, and there alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    /// Of the boot loader of AMD's secure processor.
    pub bootloader: u8,
    /// Of its operating system.
    pub tee: u8,
    /// Of the SNP firmware.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}

impl Tcb {
    /// Takes the eight bytes of a TCB version apart, by the layout of the product; none where a reserved byte is not zero.
    pub fn of(bytes: [u8; 8], product: Product) -> Option<Tcb> {
        match (product, bytes) {
            (Product::Milan | Product::Genoa, [bootloader, tee, 0, 0, 0, 0, snp, microcode]) => {
                Some(Tcb { fmc: None, bootloader, tee, snp, microcode })
            }
            (Product::Turin, [fmc, bootloader, tee, snp, 0, 0, 0, microcode]) => {
                Some(Tcb { fmc: Some(fmc), bootloader, tee, snp, microcode })
            }
            _ => None,
        }
    }

    /// The components in which this is lower than `minimum`, by name; one that only `minimum` has is lower.
    pub fn lower_than(&self, minimum: &Tcb) -> Vec<&'static str> {
        let fmc = match (self.fmc, minimum.fmc) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(own), Some(minimum)) => own < minimum,
        };
        let components = [
            ("fmc", fmc),
            ("bootloader", self.bootloader < minimum.bootloader),
            ("tee", self.tee < minimum.tee),
            ("snp", self.snp < minimum.snp),
            ("microcode", self.microcode < minimum.microcode),
        ];
        components.into_iter().filter(|(_, lower)| *lower).map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(formatter, "fmc {fmc} ")?;
        }
        let Tcb { bootloader, tee, snp, microcode, .. } = self;
        write!(formatter, "bootloader {bootloader} tee {tee} snp {snp} microcode {microcode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcb_version_is_taken_apart_by_the_layout_of_its_product() {
        let tcb = |fmc| Tcb { fmc, bootloader: 2, tee: 3, snp: 4, microcode: 5 };
        for product in [Product::Milan, Product::Genoa] {
            assert_eq!(Tcb::of([2, 3, 0, 0, 0, 0, 4, 5], product), Some(tcb(None)));
            assert_eq!(Tcb::of([1, 2, 3, 4, 0, 0, 0, 5], product), None);
        }
        assert_eq!(Tcb::of([1, 2, 3, 4, 0, 0, 0, 5], Product::Turin), Some(tcb(Some(1))));
        assert_eq!(Tcb::of([2, 3, 0, 0, 0, 0, 4, 5], Product::Turin), None);
    }

    #[test]
    fn each_component_is_compared_and_a_missing_one_is_lower() {
        let tcb = Tcb { fmc: Some(9), bootloader: 9, tee: 9, snp: 9, microcode: 9 };
        assert!(tcb.lower_than(&tcb).is_empty());
        let minimum = Tcb { fmc: None, bootloader: 10, tee: 0, snp: 10, microcode: 9 };
        assert_eq!(tcb.lower_than(&minimum), ["bootloader", "snp"]);
        assert_eq!(Tcb { fmc: None, ..tcb }.lower_than(&tcb), ["fmc"]);
        assert_eq!(Tcb { microcode: 8, tee: 8, ..tcb }.lower_than(&tcb), ["tee", "microcode"]);
    }

    #[test]
    fn names_and_cpuid_lead_to_one_product() {
        for (product, names) in [
            (Product::Milan, &["Milan", "Milan-B0", "Milan-B1"][..]),
            (Product::Genoa, &["Genoa", "Genoa-B1", "Siena", "Siena-B0", "Bergamo-A2"][..]),
            (Product::Turin, &["Turin", "Turin-B0"][..]),
        ] {
            for name in names {
                let called: Vec<Product> = Product::ALL.into_iter().filter(|p| p.is_called(name)).collect();
                assert_eq!(called, [product], "{name}");
            }
        }
        for name in ["", "milan", "Milano", "-Milan", "Rome", "MilanB0"] {
            assert!(Product::ALL.into_iter().all(|product| !product.is_called(name)), "{name}");
        }
        assert_eq!(Product::of_cpuid(0x19, 0x01), Some(Product::Milan));
        assert_eq!(Product::of_cpuid(0x19, 0x11), Some(Product::Genoa));
        assert_eq!(Product::of_cpuid(0x19, 0xa0), Some(Product::Genoa));
        assert_eq!(Product::of_cpuid(0x1a, 0x02), Some(Product::Turin));
        for (family, model) in [(0x17, 0x31), (0x19, 0x20), (0x19, 0xb0), (0x1a, 0x50), (0, 0)] {
            assert_eq!(Product::of_cpuid(family, model), None);
        }
    }
}
