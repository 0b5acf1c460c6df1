package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
)

// image.go: what was there before an action, and what it left (SPEC §4).

// ErrImageWanted is returned, beside the decision as it would be with an image, for a call that would be admitted and whose
// image has not been tried for (Call.Untried). Nothing is recorded; the rim looks, and asks again.
var ErrImageWanted = errors.New("the image is wanted first")

// resource is what the call touches, as records name it: "server:resource", so that the paths of two servers are two.
func (c *Call) resource() string {
	if c.Resource == "" || c.Server == "" {
		return c.Resource
	}
	return c.Server + ":" + c.Resource
}

// Recognise returns what an image is recognised by without being kept: HMAC-SHA-256 under the session's key (SPEC §8).
// Of a resource that was not there it is the zero hash.
func Recognise(key [32]byte, i action.Image) (h audit.Hash) {
	if i.Absent {
		return h
	}
	mac := hmac.New(sha256.New, key[:])
	mac.Write(i.Bytes)
	mac.Sum(h[:0])
	return h
}

// An imaged is the part of an event that says what a resource was at a moment.
type imaged struct {
	part   *audit.Part
	mac    audit.Hash
	absent bool
}

// imageOf makes the part of an image, under a name; a resource that was not there has none.
func imageOf(env *Env, name string, i action.Image) imaged {
	if i.Absent {
		return imaged{absent: true}
	}
	p := part(env, name, i.Bytes)
	return imaged{&p, Recognise(env.Secret, i), false}
}
