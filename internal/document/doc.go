// Package document reads what people write for this program, in YAML or JSON: a mapping of known keys, lists, texts, durations.
//
// It is strict, since a misspelt safeguard is none: an unknown key, a wrong type, a value out of range and a key said twice are
// Faults, each with file, line and column, and the reader goes on to find the next. Anchors, aliases, tags and merge keys are
// refused: a value stands where it is used. JSON is read as RFC 8259 has it, without what YAML would forgive.
//
// What the keys mean is not its business: see internal/config for hypervisor.yaml and package saga for a saga's definition.
// It may import a YAML parser and a JSON one, and nothing of ours. All of it is values; nothing is safe for concurrent use.
package document
