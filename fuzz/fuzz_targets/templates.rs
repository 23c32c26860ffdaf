#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| matome_fuzz::templates(bytes));
