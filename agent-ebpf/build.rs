//! Makes the linker clear memory inline instead of calling a function.

fn main() {
    // To the kernel a program that calls a function is two programs. Before the fix "bpf: ensure main program has an extable"
    // (2023; 5.10.262 does not have it) only one of the two knows where a load through a typed pointer may fault. If the
    // fault looks into the other one, the kernel panics.
    println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    println!("cargo::rerun-if-changed=build.rs");
}
