// Package eventlogtest holds a store to the contract of package eventlog: Run for what each method promises, Faults for what
// must hold after each way in which a write can fail, and Verify, which trusts nothing but bytes.
//
// It is for the tests of stores. It imports eventlog and audit, and testing.
package eventlogtest
