// Package action is the theory of what an agent asks to have done: descriptors, their risk and reversibility, and how the
// statements of several sources about one action become one descriptor (SPEC §4).
//
// Everything here is a value. How an action is taken back is said by templates ([Template], [Call], [Look]); the package resolves
// them and says what is faithful. It does not call tools and knows no session; it imports package ring only.
package action
