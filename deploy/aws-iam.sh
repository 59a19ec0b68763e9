#!/usr/bin/env bash
# Once in an AWS account: the roles of head and workers, for one bucket.
#
#     deploy/aws-iam.sh BUCKET
#
# The head may start, stop and tag machines and give them the role of the workers; both may read and
# write the bucket, and nothing else. Needs the AWS CLI, signed in as somebody who may make roles.
set -euo pipefail

bucket=${1:?usage: deploy/aws-iam.sh BUCKET}
partition=$(aws sts get-caller-identity --query Arn --output text | cut -d: -f2)
account=$(aws sts get-caller-identity --query Account --output text)
trust='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
  "Principal": {"Service": "ec2.amazonaws.com"}}]}'
files='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
   "Resource": "arn:'$partition':s3:::'$bucket'"},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject",
   "s3:AbortMultipartUpload"], "Resource": "arn:'$partition':s3:::'$bucket'/*"}]}'
machines='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["ec2:Describe*", "ec2:RunInstances", "ec2:StartInstances",
   "ec2:StopInstances", "ec2:TerminateInstances", "ec2:CreateTags"], "Resource": "*"},
  {"Effect": "Allow", "Action": "ssm:GetParameters",
   "Resource": "arn:'$partition':ssm:*::parameter/aws/service/*"},
  {"Effect": "Allow", "Action": "iam:PassRole",
   "Resource": "arn:'$partition':iam::'$account':role/sam-study-worker"}]}'

for name in sam-study-head sam-study-worker; do
    aws iam create-role --role-name "$name" --assume-role-policy-document "$trust" >/dev/null
    aws iam put-role-policy --role-name "$name" --policy-name files --policy-document "$files"
    aws iam create-instance-profile --instance-profile-name "$name" >/dev/null
    aws iam add-role-to-instance-profile --instance-profile-name "$name" --role-name "$name"
done
aws iam put-role-policy --role-name sam-study-head --policy-name machines \
    --policy-document "$machines"
# What spot machines need, once in an account.
aws iam get-role --role-name AWSServiceRoleForEC2Spot >/dev/null 2>&1 ||
    aws iam create-service-linked-role --aws-service-name spot.amazonaws.com >/dev/null
echo "made the roles sam-study-head and sam-study-worker for s3://$bucket"
