package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/agenthypervisor/hypervisor/api"
)

func sessionDrift(g *globals) *cobra.Command {
	var in api.DriftReport
	var distance, file string
	cmd := &cobra.Command{
		Use: "drift ID --agent DID (--distance D | --embeddings FILE [--metric M]) [--reason R]", Short: "Report how far an agent has moved from what it claims to do", Args: cobra.ExactArgs(1),
		Long: `Report how far an agent has moved from what it claims to do: with a token of the role service, or as an operator. D is from 0 to 1; or FILE
has two embeddings, {"claimed": […], "observed": […]} in JSON, which are compared by cosine or euclidean. From 0.15 on it is recorded, from 0.30 on
the agent is held a ring lower until an operator lifts it, from 0.50 on it is slashed, from 0.75 on quarantined besides.`,
		Example: `  hypervisor session drift dev --agent did:mesh:ann --distance 0.35 --reason "answers in another voice"
  hypervisor session drift dev --agent did:mesh:ann --embeddings ann.json --metric euclidean --server http://127.0.0.1:7700 --token-file cmvk.token`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if (distance == "") == (file == "") {
				return usage("say how far it has moved: --distance D, or --embeddings FILE")
			}
			if in.Distance, err = decimal("--distance", distance); err != nil {
				return err
			}
			if file != "" {
				if in.Claimed, in.Observed, err = readEmbeddings(file); err != nil {
					return err
				}
			}
			ctx, cancel := g.context(cmd, false)
			defer cancel()
			c, _, err := oneSession(ctx, g, args[0])
			if err != nil {
				return err
			}
			d, err := c.ReportDrift(ctx, args[0], in, "")
			switch {
			case err != nil:
				return err
			case g.json:
				return g.printJSON(d)
			case d.ID == "":
				g.printf("%s has moved by %s: it does as it claims, and nothing is recorded\n", in.Agent, d.Distance)
			default:
				g.printf("%s: %s has moved by %s, which is %s\n", d.ID, in.Agent, d.Distance, d.Level)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&in.Agent, "agent", "", "the agent's DID")
	cmd.Flags().StringVar(&distance, "distance", "", "how far, from 0 to 1, as it was measured elsewhere")
	cmd.Flags().StringVar(&file, "embeddings", "", "what it claims and what was observed, a JSON file")
	cmd.Flags().StringVar(&in.Metric, "metric", "", "how embeddings are compared: cosine (where nothing is said) or euclidean")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "what was observed, for the record")
	required(cmd, "agent")
	return cmd
}

// maxEmbeddingsBytes bounds a file of embeddings: the daemon takes no larger body.
const maxEmbeddingsBytes = 1 << 20

// readEmbeddings reads two embeddings, and says what is wrong with their form before anything is sent.
func readEmbeddings(path string) (claimed, observed []api.Decimal, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, usage("--embeddings: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEmbeddingsBytes+1))
	switch {
	case err != nil:
		return nil, nil, usage("--embeddings %s: %w", path, err)
	case len(b) > maxEmbeddingsBytes:
		return nil, nil, usage("--embeddings %s: more than %d bytes", path, maxEmbeddingsBytes)
	}
	var two struct{ Claimed, Observed []api.Decimal }
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&two); err != nil {
		return nil, nil, usage("--embeddings %s: %w", path, err)
	}
	if len(two.Claimed) == 0 || len(two.Observed) == 0 {
		return nil, nil, usage(`--embeddings %s: want {"claimed": […], "observed": […]}`, path)
	}
	return two.Claimed, two.Observed, nil
}
