//! Has the linker put memory to zero in place, where it would call a function for it.

fn main() {
    // A program that calls a function is two programs to the kernel, and up to 5.15.119, and on 5.10 to this day, only one of
    // the two knows where a load through a typed pointer may fault ("bpf: ensure main program has an extable"). If the fault
    // looks into the other one, the kernel panics.
    println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    println!("cargo::rerun-if-changed=build.rs");
}
