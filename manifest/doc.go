// Package manifest reads what an agent says of itself: an IATP capability manifest (SPEC §9 "Manifests").
//
// Everything in it is a claim, and the weakest there is: it holds an agent lower and makes its actions stricter, never the
// other way. It is pure: bytes in, values out. It knows nothing of sessions; it may import policy, action and ring.
package manifest
