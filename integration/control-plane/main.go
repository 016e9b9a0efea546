// Control-plane is one binary that is etcd, kube-apiserver, kube-controller-manager, kube-scheduler or
// kubectl, by the name it was called with or else by its first argument. One binary, because the five
// share most of their code: apart they would take five times the space and most of five builds.
//
// It adds nothing to what the Kubernetes and etcd projects release and changes nothing; it is for
// Drydock's tests and is no part of what runs in a cluster.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	_ "time/tzdata" // CronJob's time zones, also where the machine has no zone files

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // what the released binaries measure
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// One program: it reads os.Args as if it had been started alone, and gives its exit code.
type program func() int

var programs = map[string]program{
	"etcd": func() int {
		etcdmain.Main(os.Args) // ends the process itself when it fails
		return 0
	},
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllers.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubectl": func() int {
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err) // prints it as kubectl does, and ends the process
		}
		return 0
	},
}

func main() {
	name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
	run, found := programs[name]
	if !found && len(os.Args) > 1 {
		name = os.Args[1]
		if run, found = programs[name]; found {
			os.Args = append([]string{name}, os.Args[2:]...)
		}
	}
	if !found {
		fmt.Fprintln(os.Stderr, "call this as etcd, kube-apiserver, kube-controller-manager, kube-scheduler or kubectl,"+
			" by a link of that name or with the name as first argument")
		os.Exit(2)
	}
	os.Exit(run())
}
